"""Logs as one JSON object a line, without secrets.

In: logging records; what stands in their `extra` becomes keys of the object. Out: lines on a stream.
Beware: a secret that a request brings is never handed to a logger; what slips into a path, a message or a traceback is taken out here.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TextIO

REQUESTS = "smalltale.server.requests"
"""The logger of one line a request."""
SECRETS = (
    (re.compile(r"(/join/)[^/\s\"']+"), r"\1…"),
    (re.compile(r"(smalltale_)[A-Za-z0-9_-]{8,}"), r"\1…"),
    (re.compile(r"(?m)^(DETAIL: ).*$"), r"\1…"),
    (re.compile(r"(://[^/\s:@]+:)[^/\s@]+(@)"), r"\1…\2"),
)
"""Invitations, API tokens, the row that PostgreSQL complains of, passwords in a database's address."""
USUAL = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
"""What every record has; the rest is its `extra`."""


def scrubbed(text: str) -> str:
    """A text without the secrets that we know by their form."""
    for form, kept in SECRETS:
        text = form.sub(kept, text)
    return text


class JsonLines(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in USUAL},
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(
            {name: scrubbed(value) if isinstance(value, str) else value for name, value in line.items()},
            ensure_ascii=False,
            default=str,
        )


def write_json_lines(stream: TextIO, loggers: Iterable[str] = ("smalltale", "uvicorn")) -> None:
    """Have these loggers write JSON lines to a stream, and nothing else."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    for name in loggers:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if name == "smalltale" else logging.WARNING)
