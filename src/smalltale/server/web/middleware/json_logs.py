"""Log records as one JSON object per line, with secrets redacted.

Input: log records; the keys of their `extra` become keys of the object. Output: lines on a stream.
No secret of a request is passed to a logger; the patterns here catch one that slips into a path, a message or a traceback.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import TextIO

REQUEST_LOGGER = "smalltale.server.requests"
"""The logger that writes one line per request."""
SECRETS = (
    (re.compile(r"(/join/)[^/\s\"']+"), r"\1…"),
    (re.compile(r"(smalltale_)[A-Za-z0-9_-]{8,}"), r"\1…"),
    (re.compile(r"(?m)^(DETAIL: ).*$"), r"\1…"),
    (re.compile(r"(://[^/\s:@]+:)[^/\s@]+(@)"), r"\1…\2"),
)
"""Patterns and their replacements: invitation codes, API tokens, the row in a PostgreSQL error, the password in a database URL."""
STANDARD_ATTRIBUTES = set(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}
"""The attributes of every record; all others come from `extra`."""


def redact_secrets(text: str) -> str:
    """Replace the secrets that have a known form by an ellipsis."""
    for pattern, replacement in SECRETS:
        text = pattern.sub(replacement, text)
    return text


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in STANDARD_ATTRIBUTES},
        }
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return json.dumps(
            {
                name: redact_secrets(value) if isinstance(value, str) else value
                for name, value in fields.items()
            },
            ensure_ascii=False,
            default=str,
        )


def configure_json_logs(stream: TextIO) -> None:
    """Make our loggers and uvicorn's write JSON lines to a stream, and nowhere else."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    for name in ("smalltale", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if name == "smalltale" else logging.WARNING)
