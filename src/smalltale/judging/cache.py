"""Cache of finished judgements: a judgement is saved as soon as it is finished, so that no call is paid for twice.

Input: records by cache key. Output: a JSONL journal, one line per record.
Note: where a key has several lines, the last one counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smalltale.errors import FileProblem
from smalltale.journal import Journal, read_records


class JudgementCache:
    """Records by key, in a journal that is open inside a `with` block; without `path`, in memory only."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.journal: Journal | None = None
        self.records: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> JudgementCache:
        if self.path is not None:
            self.journal = Journal(self.path)
            try:
                self.records = index_by_key(self.path)
            except FileProblem:
                self.journal.close()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.journal is not None:
            self.journal.close()

    def get(self, key: str) -> dict[str, Any] | None:
        """The record of a key, or None."""
        return self.records.get(key)

    def add(self, key: str, record: Mapping[str, Any]) -> None:
        """Save a record; it is in the file before this returns."""
        self.records[key] = {**record, "key": key}
        if self.path is not None:
            assert self.journal is not None, "the cache is not open"
            self.journal.append(self.records[key])


def read_cached_keys(path: Path) -> set[str]:
    """The keys of a cache, which may be open elsewhere. Raises FileProblem."""
    return set(index_by_key(path))


def index_by_key(path: Path) -> dict[str, dict[str, Any]]:
    """The records of a journal by key. Raises FileProblem."""
    records = {}
    for number, record in enumerate(read_records(path), 1):
        if not isinstance(record, dict) or "key" not in record:
            raise FileProblem(
                f"{path} line {number} is not a judgement; remove that line, its judge will be asked again"
            )
        records[record["key"]] = record
    return records
