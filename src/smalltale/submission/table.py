"""A hand-in's file: CSV, Parquet or JSONL with the columns prompt and completion.

In: a file. Out: a Table of its rows, and of all that is wrong with single ones.
Beware: a cell is text, whatever a spreadsheet would make of it. Bytes that are no UTF-8 come out as lone surrogates,
for the gate to name.
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
MAX_CELL = 1_000_000
MAX_ROWS = 100_000
MAX_SHOWN = 60
"""Characters of a cell that a message quotes."""


@dataclass(frozen=True)
class Completion:
    """One story of a hand-in: the prompt it was asked to go on from, and how it goes on."""

    prompt: str
    completion: str


@dataclass(frozen=True, kw_only=True)
class SubmissionIssue:
    """One thing found in a hand-in."""

    row: int | None
    """The data row, from 1; None where it is about the whole file."""
    column: str
    problem: str
    fix: str

    def __str__(self) -> str:
        where = f"row {self.row}, column {self.column}" if self.row is not None else f"column {self.column}"
        return f"{where}: {self.problem}; {self.fix}"


@dataclass(frozen=True)
class SubmissionTable:
    """What stands in a file."""

    rows: dict[int, Completion]
    """By data row, from 1; a cell that is no text is empty here."""
    problems: list[SubmissionIssue]


@dataclass(frozen=True)
class UnreadableRow:
    """A row that could not be read as one."""

    found: str
    mend: str


def read_submission(path: Path) -> list[Completion]:
    """The rows of a hand-in. Raises FileProblem where any of them is not a prompt and a completion."""
    table = read_table(path)
    if table.problems:
        raise FileProblem(f"{path}: {table.problems[0]}")
    return list(table.rows.values())


def read_table(path: Path) -> SubmissionTable:
    """The rows of a hand-in. Raises FileProblem where it is no table with both columns."""
    check_file_extension(path)
    readers = {".csv": rows_of_csv, ".jsonl": rows_of_jsonl, ".parquet": rows_of_parquet}
    found = readers[path.suffix.lower()](path)
    if not found:
        raise FileProblem(f"{path} has no rows; hand in the completions of every prompt")
    if len(found) > MAX_ROWS:
        raise FileProblem(f"{path} has {len(found):,} rows; hand in the completions alone")
    rows: dict[int, Completion] = {}
    problems: list[SubmissionIssue] = []
    for number, row in enumerate(found, 1):
        if isinstance(row, dict):
            broken = {name: problem_of_cell(number, name, row.get(name)) for name in COLUMNS}
            problems += [each for each in broken.values() if each is not None]
            rows[number] = Completion(*("" if broken[name] else row[name] for name in COLUMNS))
        else:
            problems.append(SubmissionIssue(row=number, column="all", problem=row.found, fix=row.mend))
    return SubmissionTable(rows, problems)


def problem_of_cell(number: int, column: str, value: object) -> SubmissionIssue | None:
    """Why a cell is no text, None where it is."""
    if value is None:
        found, mend = "it is missing", f"give every row a {column}"
    elif not isinstance(value, str):
        said = repr(value) if isinstance(value, int | float) else f"a {type(value).__name__}"
        found, mend = f"{said:.{MAX_SHOWN}} is not text", "give text"
    elif broken := next((each for each in value if "\ud800" <= each <= "\udfff"), None):
        byte = ord(broken) - 0xDC00  # as surrogateescape writes it
        found = f"byte 0x{byte:02x} is not UTF-8" if 0x80 <= byte <= 0xFF else "half a character is not UTF-8"
        mend = "save the file as UTF-8, for example with: iconv -f WINDOWS-1252 -t UTF-8"
    else:
        return None
    return SubmissionIssue(row=number, column=column, problem=found, fix=mend)


def rows_of_csv(path: Path) -> list[dict[str, Any] | UnreadableRow]:
    """The rows of a CSV file with a header."""
    csv.field_size_limit(MAX_CELL)
    reader = csv.DictReader(io.StringIO(text_of(path), newline=""), strict=True)
    try:
        refuse_other_columns(path, reader.fieldnames or [])
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
        raise FileProblem(f"{path} line {reader.line_num} is not CSV ({error}); mend its quotes") from error


def rows_of_jsonl(path: Path) -> list[dict[str, Any] | UnreadableRow]:
    """The object of every line."""
    rows: list[dict[str, Any] | UnreadableRow] = []
    for number, line in enumerate(text_of(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
            rows.append(UnreadableRow(f"line {number} is not JSON ({error})", "mend or remove the line"))
            continue
        told = isinstance(value, dict)
        rows.append(
            value
            if told
            else UnreadableRow(f"line {number} is no object", 'write {"prompt": …, "completion": …}')
        )
    return rows


def text_of(path: Path) -> str:
    """The text of a file; bytes that are no UTF-8 become lone surrogates. Raises FileProblem where it is no text at all."""
    with translate_os_errors(path):
        raw = path.read_bytes()
    if not raw.strip():
        raise FileProblem(f"{path} is empty; hand in the completions of every prompt")
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\x00" in raw.split(b"\n", 1)[0]:
        raise FileProblem(f"{path} is UTF-16 or no text; save it as UTF-8")
    return raw.decode("utf-8-sig", "surrogateescape")


def rows_of_parquet(path: Path) -> list[dict[str, Any] | UnreadableRow]:
    """The two columns of a Parquet file, refused where they would unpack to more than a hand-in may hold."""
    try:
        with translate_os_errors(path), pq.ParquetFile(path) as opened:
            refuse_other_columns(path, opened.schema_arrow.names)
            unpacked = sum(
                opened.metadata.row_group(each).total_byte_size for each in range(opened.num_row_groups)
            )
            if unpacked > 20 * Rules().max_submission_bytes or opened.metadata.num_rows > MAX_ROWS:
                raise FileProblem(
                    f"{path} unpacks to {unpacked:,} bytes in {opened.metadata.num_rows:,} rows; hand in the completions alone"
                )
            return rows_within(path, opened, 5 * Rules().max_submission_bytes)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise FileProblem(f"{path} is not whole Parquet in UTF-8 ({error}); write it again") from error


def rows_within(path: Path, opened: pq.ParquetFile, most: int) -> list[dict[str, Any] | UnreadableRow]:
    """The rows, read a few at a time: a dictionary can say one long text 100,000 times in a few bytes."""
    rows: list[dict[str, Any] | UnreadableRow] = []
    total = 0
    for batch in opened.iter_batches(batch_size=64, columns=list(COLUMNS)):
        found = batch.to_pylist()
        total += sum(len(value) for row in found for value in row.values() if isinstance(value, str | bytes))
        if total > most:
            raise FileProblem(
                f"{path} unpacks to more than {most:,} characters; hand in the completions alone"
            )
        rows += found
    return rows


def refuse_other_columns(path: Path, names: Sequence[str]) -> None:
    """Raise FileProblem where one of the two columns is not there, or is there twice."""
    for name in COLUMNS:
        if (count := list(names).count(name)) != 1:
            said = "no column" if count == 0 else f"{count} columns"
            raise FileProblem(f"{path} has {said} {name}; it must have one prompt and one completion a row")


def check_file_extension(path: Path) -> None:
    """Raise FileProblem for a hand-in of another ending, before work is spent on it."""
    if path.suffix.lower() not in {".csv", ".parquet", ".jsonl"}:
        raise FileProblem(
            f"{path}: a hand-in is a .csv, .parquet or .jsonl file; choose one of these endings"
        )


def write_table(path: Path, rows: Sequence[Completion]) -> None:
    """Write CSV, JSONL or Parquet by the path's ending, to the letter."""
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
    """The two columns as they are, to the letter."""
    with path.open("w", encoding="utf-8", newline="") as out:
        # quoted throughout: Python 3.11 leaves a lone carriage return bare, and readers end the row there
        writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow(COLUMNS)
        writer.writerows(rows)


def export_for_spreadsheet(path: Path, rows: Sequence[Completion]) -> None:
    """A CSV for people to open in a spreadsheet: a cell that would be a formula gets an apostrophe first.

    It is for reading; hand in the file that `write_table` writes.
    """
    with atomic_file(path) as temporary:
        write_csv(temporary, ((as_text(row.prompt), as_text(row.completion)) for row in rows))


def as_text(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula (OWASP's list of first characters)."""
    return f"'{cell}" if cell.lstrip(" \n")[:1] in tuple("=+-@\t\r") and cell else cell
