"""A submission's file: CSV, Parquet or JSONL with the columns prompt and completion.

Input: a file. Output: a SubmissionTable with its rows and the issues of single cells.
Pitfall: a cell is text even if it looks like a number or a formula. Bytes that are not UTF-8 become lone surrogates,
which are then reported.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from smalltale.errors import FileProblem
from smalltale.files import atomic_file, translate_os_errors, write_jsonl
from smalltale.rules import Rules

COLUMNS = ("prompt", "completion")
MAX_CELL_CHARACTERS = 1_000_000
MAX_ROWS = 100_000
MAX_QUOTED = 60
"""Characters of a cell that a message quotes."""


@dataclass(frozen=True)
class Completion:
    """One row of a submission: a prompt and the story that continues it."""

    prompt: str
    completion: str


@dataclass(frozen=True, kw_only=True)
class SubmissionIssue:
    """A problem of a submission and how to fix it."""

    row: int | None = None
    """The data row, from 1; None for the whole file."""
    column: str | None = None
    """None for the whole row or file."""
    problem: str
    fix: str

    def __str__(self) -> str:
        parts = [f"row {self.row}"] if self.row is not None else []
        parts += [f"column {self.column}"] if self.column is not None else []
        location = f"{', '.join(parts)}: " if parts else ""
        return f"{location}{self.problem}; {self.fix}"


@dataclass(frozen=True)
class SubmissionTable:
    """The content of a submission's file."""

    rows: dict[int, Completion]
    """By data row, from 1; a cell that is not text is empty here."""
    issues: list[SubmissionIssue]


@dataclass(frozen=True)
class UnreadableRow:
    """A row without cells to check: broken JSON, or more cells than the header."""

    problem: str
    fix: str


def read_submission(path: Path) -> list[Completion]:
    """The rows of a submission. Raises FileProblem if any of them is not a prompt and a completion."""
    table = read_table(path)
    if table.issues:
        raise FileProblem(f"{path}: {table.issues[0]}")
    return list(table.rows.values())


def read_table(path: Path) -> SubmissionTable:
    """The rows of a submission. Raises FileProblem if it is not a table with both columns."""
    check_file_extension(path)
    readers = {".csv": read_csv_rows, ".jsonl": read_jsonl_rows, ".parquet": read_parquet_rows}
    raw_rows = readers[path.suffix.lower()](path)
    if not raw_rows:
        raise FileProblem(f"{path} has no rows; submit the completions of every prompt")
    if len(raw_rows) > MAX_ROWS:
        raise FileProblem(f"{path} has {len(raw_rows):,} rows; submit the completions alone")
    rows: dict[int, Completion] = {}
    issues: list[SubmissionIssue] = []
    for number, row in enumerate(raw_rows, 1):
        if isinstance(row, UnreadableRow):
            issues.append(SubmissionIssue(row=number, problem=row.problem, fix=row.fix))
            continue
        cell_issues = {name: check_cell(number, name, row.get(name)) for name in COLUMNS}
        issues += [issue for issue in cell_issues.values() if issue is not None]
        rows[number] = Completion(*("" if cell_issues[name] else row[name] for name in COLUMNS))
    return SubmissionTable(rows, issues)


def check_cell(number: int, column: str, cell: object) -> SubmissionIssue | None:
    """Why a cell is not text; None if it is."""
    if cell is None:
        problem, fix = "it is missing", f"give every row a {column}"
    elif not isinstance(cell, str):
        shown = repr(cell) if isinstance(cell, int | float) else f"a {type(cell).__name__}"
        problem, fix = f"{shown:.{MAX_QUOTED}} is not text", "give text"
    elif surrogate := next((char for char in cell if "\ud800" <= char <= "\udfff"), None):
        byte = ord(surrogate) - 0xDC00  # the inverse of surrogateescape
        is_byte = 0x80 <= byte <= 0xFF
        problem = f"byte 0x{byte:02x} is not UTF-8" if is_byte else "half a surrogate pair is not UTF-8"
        fix = "save the file as UTF-8, for example with: iconv -f WINDOWS-1252 -t UTF-8"
    else:
        return None
    return SubmissionIssue(row=number, column=column, problem=problem, fix=fix)


def read_csv_rows(path: Path) -> list[dict[str, Any] | UnreadableRow]:
    """The rows of a CSV file with a header."""
    csv.field_size_limit(MAX_CELL_CHARACTERS)
    reader = csv.DictReader(io.StringIO(decode_text(path), newline=""), strict=True)
    try:
        check_columns(path, reader.fieldnames or [])
        return [
            UnreadableRow(
                f"it has {len(row) - 1 + len(row[None])} cells and the header {len(row) - 1}",
                "put a cell that has a comma or a quote in it between quotes",
            )
            if None in row
            else row
            for row in reader
        ]
    except csv.Error as error:
        raise FileProblem(f"{path} line {reader.line_num} is not CSV ({error}); fix its quotes") from error


def read_jsonl_rows(path: Path) -> list[dict[str, Any] | UnreadableRow]:
    """The object of each line."""
    rows: list[dict[str, Any] | UnreadableRow] = []
    for number, line in enumerate(decode_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # ValueError also for a number of thousands of digits
            rows.append(UnreadableRow(f"line {number} is not JSON ({error})", "correct or remove the line"))
            continue
        if not isinstance(row, dict):
            row = UnreadableRow(f"line {number} is not an object", 'write {"prompt": …, "completion": …}')
        rows.append(row)
    return rows


def decode_text(path: Path) -> str:
    """A file's text, with bytes that are not UTF-8 as lone surrogates. Raises FileProblem if it is empty or UTF-16."""
    with translate_os_errors(path):
        raw = path.read_bytes()
    if not raw.strip():
        raise FileProblem(f"{path} is empty; submit the completions of every prompt")
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\x00" in raw.split(b"\n", 1)[0]:
        raise FileProblem(f"{path} is UTF-16 or not text; save it as UTF-8")
    return raw.decode("utf-8-sig", "surrogateescape")


def read_parquet_rows(path: Path) -> list[dict[str, Any] | UnreadableRow]:
    """The two columns of a Parquet file. Raises FileProblem if it unpacks to far more than the limit of a submission."""
    try:
        with translate_os_errors(path), pq.ParquetFile(path) as parquet:
            check_columns(path, parquet.schema_arrow.names)
            row_groups = (parquet.metadata.row_group(index) for index in range(parquet.num_row_groups))
            unpacked_bytes = sum(row_group.total_byte_size for row_group in row_groups)
            if unpacked_bytes > 20 * Rules().max_submission_bytes or parquet.metadata.num_rows > MAX_ROWS:
                raise FileProblem(
                    f"{path} unpacks to {unpacked_bytes:,} bytes in {parquet.metadata.num_rows:,} rows; submit the completions alone"
                )
            return read_batches(path, parquet, 5 * Rules().max_submission_bytes)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise FileProblem(f"{path} is not valid Parquet in UTF-8 ({error}); write it again") from error


def read_batches(
    path: Path, parquet: pq.ParquetFile, max_characters: int
) -> list[dict[str, Any] | UnreadableRow]:
    """The rows, in small batches: a dictionary encodes one long text repeated 100,000 times in a few bytes."""
    rows: list[dict[str, Any] | UnreadableRow] = []
    characters = 0
    for batch in parquet.iter_batches(batch_size=64, columns=list(COLUMNS)):
        batch_rows = batch.to_pylist()
        cells = (cell for row in batch_rows for cell in row.values())
        characters += sum(len(cell) for cell in cells if isinstance(cell, str | bytes))
        if characters > max_characters:
            raise FileProblem(
                f"{path} unpacks to more than {max_characters:,} characters; submit the completions alone"
            )
        rows += batch_rows
    return rows


def check_columns(path: Path, names: Sequence[str]) -> None:
    """Raise FileProblem unless each of the two columns is there once."""
    for name in COLUMNS:
        if (count := list(names).count(name)) != 1:
            problem = "no column" if count == 0 else f"{count} columns"
            raise FileProblem(f"{path} has {problem} {name}; write a prompt and a completion in each row")


def check_file_extension(path: Path) -> None:
    """Raise FileProblem for an unsupported file type, before work is spent on it."""
    if path.suffix.lower() not in {".csv", ".parquet", ".jsonl"}:
        raise FileProblem(f"{path}: unsupported file type; use .csv, .parquet or .jsonl")


def write_table(path: Path, rows: Sequence[Completion]) -> None:
    """Write CSV, JSONL or Parquet by the path's extension; every character is kept."""
    check_file_extension(path)
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        write_jsonl(path, ({name: getattr(row, name) for name in COLUMNS} for row in rows))
        return
    with atomic_file(path) as temporary:
        if suffix == ".parquet":
            table = pa.table({name: [getattr(row, name) for row in rows] for name in COLUMNS})
            pq.write_table(table, temporary)
        else:
            write_csv(temporary, ((row.prompt, row.completion) for row in rows))


def write_csv(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Write the two columns; every character is kept."""
    with path.open("w", encoding="utf-8", newline="") as out:
        # quote everything: Python 3.11 leaves a lone carriage return bare, and readers end the row there
        writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow(COLUMNS)
        writer.writerows(rows)


def export_for_spreadsheet(path: Path, rows: Sequence[Completion]) -> None:
    """Write a CSV to read in a spreadsheet: a cell that would be a formula gets an apostrophe in front.

    Do not submit it; submit the file that `write_table` writes.
    """
    with atomic_file(path) as temporary:
        write_csv(temporary, ((escape_formula(row.prompt), escape_formula(row.completion)) for row in rows))


def escape_formula(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula (first characters from OWASP's CSV injection page)."""
    return f"'{cell}" if cell.lstrip(" \n")[:1] in tuple("=+-@\t\r") and cell else cell
