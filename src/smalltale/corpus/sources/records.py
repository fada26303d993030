"""Parse one document from bytes, from a line of JSON or from a row of a table.

Input: raw bytes, JSON values, Parquet files. Output: SourceDocuments; what cannot be read has a drop reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from smalltale.corpus.document import SourceDocument
from smalltale.errors import FileProblem
from smalltale.files import translate_os_errors

LONGEST_STORY_BYTES = 1_000_000
"""Reading stops here in a longer story; the part read so far is dropped as very long."""
TEXT_COLUMNS = ("text", "story", "content", "completion")
"""Names of the text column or JSON key, in order of preference."""
STORY_OPENINGS = (
    b"Once upon a time|Once,? there|Once,? (?:a|in|on)\\b|There once|There (?:was|lived) (?:once )?an? |A long time ago|Long,? long ago|Long ago"
    b"|(?:One (?!day)|On a|It was a)\\b[^.\\n]{3,70} (?:named|called) [A-Z]"
    b"|[A-Z][a-z]+ and [A-Z][a-z]+ (?:are|were) (?:\\w+ )?(?:friends|twins|siblings|brothers|sisters|brother)\\b"
)
BEFORE_OPENING = re.compile(b"\\n[ \\t\\r]*\\n\\s*(?=(?:" + STORY_OPENINGS + b"))")
"""Separates stories in a text without end-of-story marks: a blank line before a typical first sentence."""
LINE_END = re.compile(b"\\n")
EXCERPT = 2000
"""Characters of an unreadable document that are stored with its drop reason."""
PARQUET_BATCH_ROWS = 2000


def parse_text(raw: bytes, document_id: str, complete: bool = True) -> Iterator[SourceDocument]:
    """Yield the story in `raw`, or nothing for white space; `complete` is False where reading stopped early."""
    if not complete:
        yield SourceDocument(raw[:EXCERPT].decode("utf-8", "replace"), document_id, "very long")
        return
    text = decode(raw.removeprefix(b"\xef\xbb\xbf"))
    if text is None:
        yield SourceDocument(raw[:EXCERPT].decode("utf-8", "replace"), document_id, "not UTF-8")
    elif text and not text.isspace():
        yield SourceDocument(text, document_id)


def parse_json_line(raw: bytes, document_id: str, complete: bool = True) -> Iterator[SourceDocument]:
    """Yield the story in one line of JSON, or nothing for white space."""
    for line in parse_text(raw, document_id, complete):
        if line.reason is not None:
            yield line
            continue
        try:
            yield SourceDocument(find_text(json.loads(line.text)), document_id)
        except (ValueError, RecursionError):
            yield SourceDocument(line.text[:EXCERPT], document_id, "broken line")


def decode(raw: bytes) -> str | None:
    """Decode bytes as UTF-8, else as Windows-1252; None if they are neither."""
    for encoding in ("utf-8", "cp1252"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return None


def find_text(value: Any) -> str:
    """Return a JSON value that is a string, or the text column of an object. Raises ValueError if there is none."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        for column in TEXT_COLUMNS:
            if isinstance(value.get(column), str):
                return str(value[column])
    raise ValueError("no text")


def find_text_column(columns: Sequence[str], file: object) -> str:
    """Return the first of TEXT_COLUMNS that a table has. Raises FileProblem if it has none."""
    for column in TEXT_COLUMNS:
        if column in columns:
            return column
    raise FileProblem(
        f"{file} has the columns {', '.join(columns)[:200]}, none of them text; rename its text column to text or story"
    )


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file. Raises FileProblem if it is truncated or not Parquet."""
    try:
        with translate_os_errors(path):
            return pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise FileProblem(
            f"{path} is not a complete Parquet file ({str(error).splitlines()[0]}); download or write it again"
        ) from error


def read_parquet(path: Path, row_groups: range | None = None) -> Iterator[SourceDocument]:
    """Yield the rows of some row groups, or of all, with at most PARQUET_BATCH_ROWS in memory."""
    with open_parquet(path) as parquet:
        column = find_text_column(parquet.schema_arrow.names, path)
        first_group = row_groups.start if row_groups else 0
        row = sum(parquet.metadata.row_group(group).num_rows for group in range(first_group))
        groups = None if row_groups is None else list(row_groups)
        try:
            for batch in parquet.iter_batches(PARQUET_BATCH_ROWS, row_groups=groups, columns=[column]):
                for text in batch.column(0).to_pylist():
                    reason = None if isinstance(text, str) else "broken line"
                    yield SourceDocument("" if reason else text, f"{path.name}:{row}", reason)
                    row += 1
        except (pa.ArrowInvalid, OSError) as error:
            raise FileProblem(
                f"{path} cannot be read past row {row} ({str(error).splitlines()[0]}); download it again"
            ) from error
