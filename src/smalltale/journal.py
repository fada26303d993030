"""Append-only JSONL journals: every record is in the file before `append` returns, so that a killed run can resume.

Input: JSON values. Output: a file of complete lines, locked against a second writer while it is open.
Note: the lock is a hidden file next to the journal. It stays there: deleting a lock file lets two runs lock two files.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from smalltale.errors import FileProblem
from smalltale.files import translate_os_errors

log = logging.getLogger(__name__)


class Journal:
    """A journal open for appending. A last line that a kill cut short is removed."""

    def __init__(self, path: Path, *, lock: bool = True) -> None:
        """Open or create `path`. `lock=False`: the caller has locked its folder. Raises FileProblem."""
        self.path = path
        self.lock = FileLock(lock_path(path), timeout=0, thread_local=False)
        with translate_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = path.open("ab", buffering=0)
            if lock:
                self.acquire_lock()
            self.file.truncate(len(complete_lines(path.read_bytes())))

    def acquire_lock(self) -> None:
        """Lock the journal until it is closed or the process ends. Raises FileProblem where another run has it."""
        try:
            self.lock.acquire()
        except Timeout as error:
            self.file.close()
            problem = f"another run is writing {self.path}"
            raise FileProblem(f"{problem}; wait for it, or choose another folder") from error
        except (OSError, NotImplementedError) as error:
            log.debug("%s: this file system has no locks: %s", self.path, error)

    def append(self, record: Any) -> None:
        """Write one record as a line of ASCII. Raises FileProblem, with nothing written, when the disk is full."""
        line = json.dumps(record).encode() + b"\n"
        with translate_os_errors(self.path):
            size = self.file.seek(0, os.SEEK_END)
            if self.file.write(line) != len(line):
                self.file.truncate(size)
                raise FileProblem(f"{self.path}: the disk is full; free some space or choose another folder")

    def clear(self) -> None:
        """Remove all records."""
        with translate_os_errors(self.path):
            self.file.truncate(0)

    def close(self) -> None:
        self.file.close()
        self.lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_records(path: Path) -> list[Any]:
    """The records of a journal, which may be open elsewhere; a torn last line is skipped. [] for a missing file.

    Raises FileProblem for a line that is not JSON.
    """
    with translate_os_errors(path):
        raw = path.read_bytes() if path.exists() else b""
    records = []
    for number, line in enumerate(complete_lines(raw).splitlines(), 1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise FileProblem(f"{path} line {number} is not JSON; remove that line") from error
    return records


def complete_lines(raw: bytes) -> bytes:
    """The bytes up to the last line break."""
    return raw[: raw.rfind(b"\n") + 1]


def lock_path(path: Path) -> Path:
    """The lock file of a journal."""
    return path.with_name(f".{path.name.lstrip('.')}.lock")
