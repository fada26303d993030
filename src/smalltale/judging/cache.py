"""Every finished judgement, kept the moment it is finished, so that no call is made twice.

In: judgements. Out: a JSONL file that only grows.
Beware: a line cut by a kill is dropped on reading; it was the last, and its call is made again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from smalltale.errors import FileProblem
from smalltale.files import translate_os_errors

fcntl: Any = None
with contextlib.suppress(ImportError):  # Windows
    import fcntl

log = logging.getLogger(__name__)


class JudgementCache:
    """Records by key: in a file that only grows, or without `path` in memory alone."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.records: dict[str, dict[str, Any]] = {}
        self.opened: IO[bytes] | None = None

    def __enter__(self) -> JudgementCache:
        if self.path is None:
            return self
        with translate_os_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.opened = self.path.open("ab")
            self.claim()
            raw = self.path.read_bytes()
            whole = raw[: raw.rfind(b"\n") + 1]
            if len(whole) < len(raw):
                self.opened.truncate(len(whole))
        self.records = records_in(whole, self.path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.opened is not None:
            self.opened.close()

    def claim(self) -> None:
        """Hold the file, so that no second run pays for the same answers; the system lets go of it however this one ends."""
        assert self.opened is not None
        if fcntl is None:
            return
        try:
            fcntl.flock(self.opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.opened.close()
            raise FileProblem(
                f"another run is writing {self.path}; wait for it, or choose another folder"
            ) from error
        except OSError as error:
            log.debug("%s cannot be locked here: %s", self.path, error)

    def get(self, key: str) -> dict[str, Any] | None:
        """The record of a key."""
        return self.records.get(key)

    def add(self, key: str, record: Any) -> None:
        """Keep a record (a dataclass or a mapping): in the file before this returns."""
        value: Mapping[str, Any] = dataclasses.asdict(record) if dataclasses.is_dataclass(record) else record  # type: ignore[arg-type]
        kept = {**value, "key": key}
        if self.path is not None:
            assert self.opened is not None, "the cache is not open"
            with translate_os_errors(self.path):
                self.opened.write(json.dumps(kept, ensure_ascii=True).encode() + b"\n")
                self.opened.flush()
        self.records[key] = kept


def read_cached_keys(path: Path) -> set[str]:
    """The keys in a journal that nobody need have opened; none where there is none. Raises FileProblem."""
    with translate_os_errors(path):
        raw = path.read_bytes() if path.exists() else b""
    return set(records_in(raw[: raw.rfind(b"\n") + 1], path))


def records_in(lines: bytes, path: Path) -> dict[str, dict[str, Any]]:
    """Whole lines as records by key. Raises FileProblem."""
    found = {}
    for number, line in enumerate(lines.splitlines(), 1):
        try:
            record = json.loads(line)
            found[record["key"]] = record
        except (ValueError, TypeError, KeyError) as error:
            raise FileProblem(
                f"{path} line {number} is not a judgement; remove that line, its call is made again"
            ) from error
    return found
