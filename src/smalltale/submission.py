"""The gate between the two sides: a hand-in is read, checked and written here, and nowhere else.

In: a CSV, Parquet or JSONL file with the columns prompt and completion. Out: a Verdict with every problem at once.
Beware: a cell is text, whatever a spreadsheet would make of it; nothing in a hand-in is ever executed.
"""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from smalltale.errors import FileProblem
from smalltale.files import explained, new_file, read_jsonl, read_text, write_json
from smalltale.prompts import read_prompts
from smalltale.rules import Rules
from smalltale.signals import echoes_prompt, is_visible, judge_directed, looped_sentences

COLUMNS = ("prompt", "completion")
MAX_CELL = 1_000_000
MAX_SHOWN = 60
"""Characters of a cell that a message quotes."""


@dataclass(frozen=True)
class Completion:
    """One story of a hand-in: the prompt it was asked to go on from, and how it goes on."""

    prompt: str
    completion: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing found in a hand-in."""

    row: int | None
    """The data row, from 1; None where it is about the whole file."""
    column: str
    found: str
    mend: str

    def __str__(self) -> str:
        where = f"row {self.row}, column {self.column}" if self.row is not None else f"column {self.column}"
        return f"{where}: {self.found}; {self.mend}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the gate says. Accepted where `errors` is empty."""

    errors: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    rows: tuple[Completion, ...]

    @property
    def accepted(self) -> bool:
        return not self.errors


def read_submission(path: Path) -> list[Completion]:
    """The rows of a hand-in. Raises FileProblem where it cannot be read as a table with both columns."""
    return [Completion(str(row["prompt"]), str(row["completion"])) for row in read_rows(path)]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows as found, values of any type. Raises FileProblem."""
    suffix = path.suffix.lower()
    if suffix == ".csv":
        rows = rows_of_csv(path)
    elif suffix == ".jsonl":
        rows = read_jsonl(path)
    elif suffix == ".parquet":
        rows = rows_of_parquet(path)
    else:
        raise FileProblem(f"{path}: a hand-in is a .csv, .parquet or .jsonl file; save it as one of them")
    for number, row in enumerate(rows, 1):
        missing = [name for name in COLUMNS if not isinstance(row, dict) or name not in row]
        if missing:
            raise FileProblem(
                f"{path} row {number} has no {' and no '.join(missing)}; name the columns prompt and completion"
            )
    if not rows:
        raise FileProblem(f"{path} has no rows; hand in the completions of every prompt")
    return rows


def rows_of_csv(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file with a header."""
    csv.field_size_limit(MAX_CELL)
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
        if missing:
            raise FileProblem(
                f"{path} has no column {' and no column '.join(missing)}; its header must name prompt and completion"
            )
        return list(reader)
    except csv.Error as error:
        raise FileProblem(f"{path} line {reader.line_num} is not CSV ({error}); mend its quotes") from error


def rows_of_parquet(path: Path) -> list[dict[str, Any]]:
    """The two columns of a Parquet file, refused where they would unpack to more than a hand-in may hold."""
    try:
        with explained(path), pq.ParquetFile(path) as opened:
            missing = [name for name in COLUMNS if name not in opened.schema_arrow.names]
            if missing:
                raise FileProblem(
                    f"{path} has no column {' and no column '.join(missing)}; name them prompt and completion"
                )
            unpacked = sum(
                opened.metadata.row_group(each).total_byte_size for each in range(opened.num_row_groups)
            )
            if unpacked > 20 * Rules().max_submission_bytes or opened.metadata.num_rows > 100_000:
                raise FileProblem(
                    f"{path} unpacks to {unpacked:,} bytes in {opened.metadata.num_rows:,} rows; hand in the completions alone"
                )
            return rows_within(path, opened, 5 * Rules().max_submission_bytes)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise FileProblem(f"{path} is not whole Parquet ({error}); write it again") from error


def rows_within(path: Path, opened: pq.ParquetFile, most: int) -> list[dict[str, Any]]:
    """The rows, read a few at a time: a dictionary can say one long text 100,000 times in a few bytes."""
    rows: list[dict[str, Any]] = []
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


def check_submission(path: Path, prompts: Sequence[str], rules: Rules) -> Verdict:
    """Check a hand-in against the prompts asked for. Never raises for what is in the file: it finds."""
    with explained(path):
        size = path.stat().st_size
    if size > rules.max_submission_bytes:
        return refused(f"the file has {size:,} bytes", f"at most {rules.max_submission_bytes:,} are taken")
    try:
        rows = read_rows(path)
    except FileProblem as problem:
        found, _, mend = str(problem).partition("; ")
        return refused(found, mend)
    errors = [error for number, row in enumerate(rows, 1) for error in errors_of_row(number, row, rules)]
    completions = tuple(Completion(str(row["prompt"]), str(row["completion"])) for row in rows)
    errors += errors_of_prompts(completions, prompts, rules)
    warnings = [each for number, row in enumerate(completions, 1) for each in warnings_of_row(number, row)]
    return Verdict(errors=tuple(errors), warnings=tuple(warnings), rows=completions)


def refused(found: str, mend: str) -> Verdict:
    """A verdict about the file as a whole."""
    return Verdict(errors=(Finding(row=None, column="file", found=found, mend=mend),), warnings=(), rows=())


def errors_of_row(number: int, row: dict[str, Any], rules: Rules) -> list[Finding]:
    """What is wrong with one row by itself."""
    errors = []
    for column in COLUMNS:
        value = row[column]
        if not isinstance(value, str):
            errors.append(
                Finding(
                    row=number, column=column, found=f"{value!r:.{MAX_SHOWN}} is not text", mend="give text"
                )
            )
        elif "\x00" in value:
            errors.append(
                Finding(row=number, column=column, found="it has a NUL character", mend="remove it")
            )
        elif not is_visible(value):
            errors.append(
                Finding(row=number, column=column, found="it is empty or invisible", mend="give a story")
            )
        elif len(value) > rules.max_completion_characters:
            errors.append(
                Finding(
                    row=number,
                    column=column,
                    found=f"it has {len(value):,} characters",
                    mend=f"at most {rules.max_completion_characters:,} are taken",
                )
            )
    return errors


def errors_of_prompts(rows: Sequence[Completion], prompts: Sequence[str], rules: Rules) -> list[Finding]:
    """Prompts that are missing, foreign or have another number of completions, and completions that repeat."""
    asked = {normal(prompt): prompt for prompt in prompts}
    alike = {skeleton(prompt): prompt for prompt in prompts}
    groups: dict[str, list[tuple[int, str]]] = defaultdict(list)
    errors = []
    for number, row in enumerate(rows, 1):
        key = normal(row.prompt)
        if key in asked:
            groups[key].append((number, row.completion))
            continue
        near = alike.get(skeleton(row.prompt))
        found = f"{shown(row.prompt)} is not one of the prompts"
        mend = "copy the prompts to the letter from the prompt file"
        if near is not None:
            found = f"{shown(row.prompt)} differs from a prompt only in white space or look-alike characters"
            mend = f"write it as {shown(near)}, {len(near)} characters"
        errors.append(Finding(row=number, column="prompt", found=found, mend=mend))
    wanted = rules.completions_per_prompt
    for key, prompt in asked.items():
        got = groups.get(key, [])
        if len(got) != wanted:
            errors.append(
                Finding(
                    row=None,
                    column="prompt",
                    found=f"{shown(prompt)} has {len(got)} completions",
                    mend=f"every prompt needs {wanted}",
                )
            )
        first: dict[str, int] = {}
        for number, completion in got:
            before = first.setdefault(normal(completion).strip(), number)
            if before != number:
                errors.append(
                    Finding(
                        row=number,
                        column="completion",
                        found=f"it is the same as in row {before}",
                        mend=f"the {wanted} completions of a prompt must differ",
                    )
                )
    return errors


def warnings_of_row(number: int, row: Completion) -> list[Finding]:
    """What a contestant may want to look at before handing in."""
    warnings = []
    if looped := looped_sentences(row.completion):
        warnings.append(
            Finding(
                row=number,
                column="completion",
                found=f"{looped} sentences repeat an earlier one",
                mend="the model may be caught in a loop",
            )
        )
    if echoes_prompt(row.prompt, row.completion):
        warnings.append(
            Finding(
                row=number,
                column="completion",
                found="it repeats its prompt",
                mend="hand in the continuation alone",
            )
        )
    if passages := judge_directed(row.completion):
        warnings.append(
            Finding(
                row=number,
                column="completion",
                found=f"{shown(passages[0])} speaks to a judge",
                mend="such stories are judged without it and flagged",
            )
        )
    return warnings


def normal(text: str) -> str:
    """The text by which prompts are compared: Unicode NFC, line ends as one character."""
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n"))


def skeleton(text: str) -> str:
    """A text without what the eye misses: white space, case, compatibility forms, curly quotes, invisible characters."""
    folded = unicodedata.normalize("NFKD", text).casefold().translate(str.maketrans("“”‘’–—", "\"\"''--"))
    return "".join(each for each in folded if unicodedata.category(each)[0] not in "ZCM")


def shown(text: str) -> str:
    """A text as a message quotes it: short, with invisible characters as escapes."""
    short = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
    return ascii(short) if any(not each.isprintable() for each in short) else repr(short)


def refuse_other_forms(path: Path) -> None:
    """Raise FileProblem for a hand-in of another ending, before work is spent on it."""
    if path.suffix.lower() not in {".csv", ".parquet", ".jsonl"}:
        raise FileProblem(
            f"{path}: a hand-in is a .csv, .parquet or .jsonl file; choose one of these endings"
        )


def write_submission(path: Path, rows: Sequence[Completion], declaration: dict[str, Any]) -> None:
    """Write a hand-in as CSV, JSONL or Parquet by the path's ending, and `submission.json` beside it."""
    refuse_other_forms(path)
    suffix = path.suffix.lower()
    with new_file(path) as temporary:
        if suffix == ".parquet":
            table = pa.table({name: [getattr(row, name) for row in rows] for name in COLUMNS})
            pq.write_table(table, temporary)
        elif suffix == ".jsonl":
            lines = (
                json.dumps({name: getattr(row, name) for name in COLUMNS}, ensure_ascii=False) for row in rows
            )
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        else:
            write_csv(temporary, [(row.prompt, row.completion) for row in rows])
    write_json(path.with_name("submission.json"), {"kind": "submission", "format": 1, **declaration})


def write_csv(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    """The two columns as they are, to the letter."""
    with path.open("w", encoding="utf-8", newline="") as out:
        # quoted throughout: Python 3.11 leaves a lone carriage return bare, and readers end the row there
        writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow(COLUMNS)
        writer.writerows(rows)


def export_for_spreadsheet(path: Path, rows: Sequence[Completion]) -> None:
    """A CSV for people to open in a spreadsheet: a cell that would be a formula gets an apostrophe first.

    It is for reading; hand in the file that `write_submission` writes.
    """
    with new_file(path) as temporary:
        write_csv(temporary, [(as_text(row.prompt), as_text(row.completion)) for row in rows])


def as_text(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula (OWASP's list of first characters)."""
    return f"'{cell}" if cell.lstrip(" \n")[:1] in tuple("=+-@\t\r") and cell else cell


def check_files(path: Path, prompts: Path, rules: Rules) -> Verdict:
    """`check_submission` with the prompts of a file."""
    return check_submission(path, read_prompts(prompts), rules)
