"""The gate between the two sides: every problem of a hand-in, at once.

In: a file, the prompts asked for, the rules. Out: a Verdict.
Beware: nothing in a hand-in is ever executed, and nothing in one may make the gate itself fail.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from smalltale.errors import FileProblem
from smalltale.files import translate_os_errors
from smalltale.prompts import read_prompts
from smalltale.rules import Rules
from smalltale.submission.declaration import check_declaration
from smalltale.submission.table import COLUMNS, MAX_SHOWN, Completion, SubmissionIssue, read_table
from smalltale.text_signals import (
    count_repeated_sentences,
    echoes_prompt,
    find_judge_directed_text,
    has_visible_text,
)

LOOK_ALIKES = str.maketrans("“”‘’–—авсԁенһіјкморԛѕтухԝαεικνορτυχ", "\"\"''--abcdehhijkmopqstyxwaeikvoptux")
"""Quotes and dashes, Cyrillic and Greek small letters that pass for Latin ones."""


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """What the gate says. Accepted where `errors` is empty."""

    errors: tuple[SubmissionIssue, ...]
    warnings: tuple[SubmissionIssue, ...]
    rows: tuple[Completion, ...]

    @property
    def accepted(self) -> bool:
        return not self.errors


def check_submission_files(path: Path, prompts: Path, rules: Rules) -> ValidationResult:
    """`check_submission` with the prompts of a file, and the declaration beside the hand-in."""
    verdict = check_submission(path, read_prompts(prompts), rules)
    errors, open_ = check_declaration(path, rules)
    return replace(verdict, errors=(*verdict.errors, *errors), warnings=(*verdict.warnings, *open_))


def check_submission(path: Path, prompts: Sequence[str], rules: Rules) -> ValidationResult:
    """Check a hand-in against the prompts asked for. Never raises for what is in the file: it finds."""
    with translate_os_errors(path):
        size = path.stat().st_size
    if size > rules.max_submission_bytes:
        return refused(f"the file has {size:,} bytes", f"at most {rules.max_submission_bytes:,} are taken")
    try:
        table = read_table(path)
    except FileProblem as problem:
        found, _, mend = str(problem).partition("; ")
        return refused(found, mend)
    unread = {(each.row, each.column) for each in table.problems}
    errors = table.problems + [
        error
        for number, row in table.rows.items()
        for error in errors_of_row(number, row, rules)
        if (number, error.column) not in unread
    ]
    errors += errors_of_prompts(table.rows, prompts, rules)
    errors.sort(key=lambda each: (each.row is None, each.row))
    return ValidationResult(
        errors=tuple(errors),
        warnings=tuple(each for number, row in table.rows.items() for each in warnings_of_row(number, row)),
        rows=tuple(table.rows.values()),
    )


def refused(found: str, mend: str) -> ValidationResult:
    """A verdict about the file as a whole."""
    return ValidationResult(
        errors=(SubmissionIssue(row=None, column="file", problem=found, fix=mend),), warnings=(), rows=()
    )


def errors_of_row(number: int, row: Completion, rules: Rules) -> list[SubmissionIssue]:
    """What is wrong with one row by itself."""
    errors = []
    for column in COLUMNS:
        value: str = getattr(row, column)
        if "\x00" in value:
            found, mend = "it has a NUL character", "remove it"
        elif not has_visible_text(value):
            found, mend = "it is empty or invisible", "give a story"
        elif len(value) > rules.max_completion_characters:
            found = f"it has {len(value):,} characters"
            mend = f"at most {rules.max_completion_characters:,} are taken"
        else:
            continue
        errors.append(SubmissionIssue(row=number, column=column, problem=found, fix=mend))
    return errors


def errors_of_prompts(
    rows: dict[int, Completion], prompts: Sequence[str], rules: Rules
) -> list[SubmissionIssue]:
    """Prompts that are missing, foreign or have another number of completions, and completions that repeat."""
    asked = {normalize_prompt(prompt): prompt for prompt in prompts}
    alike = {confusable_skeleton(prompt): prompt for prompt in prompts}
    groups: dict[str, list[tuple[int, str]]] = defaultdict(list)
    errors = []
    for number, row in rows.items():
        key = normalize_prompt(row.prompt)
        if not key:
            continue  # told as a cell without text
        if key in asked:
            groups[key].append((number, row.completion))
            continue
        near = alike.get(confusable_skeleton(row.prompt))
        found = f"{shown(row.prompt)} is not one of the prompts"
        mend = "copy the prompts to the letter from the prompt file"
        if near is not None:
            found = f"{shown(row.prompt)} differs from a prompt only in white space or look-alike characters"
            mend = f"write it as {shown(near)}, {len(near)} characters"
        errors.append(SubmissionIssue(row=number, column="prompt", problem=found, fix=mend))
    wanted = rules.completions_per_prompt
    for key, prompt in asked.items():
        got = groups.get(key, [])
        if len(got) != wanted:
            errors.append(
                SubmissionIssue(
                    row=None,
                    column="prompt",
                    problem=f"{shown(prompt)} has {len(got)} completions",
                    fix=f"every prompt needs {wanted}",
                )
            )
        first: dict[str, int] = {}
        for number, completion in got:
            before = first.setdefault(normalize_visible_text(completion), number)
            if before != number and has_visible_text(completion):
                errors.append(
                    SubmissionIssue(
                        row=number,
                        column="completion",
                        problem=f"to a reader's eye it is the same as in row {before}",
                        fix=f"the {wanted} completions of a prompt must differ",
                    )
                )
    return errors


def warnings_of_row(number: int, row: Completion) -> list[SubmissionIssue]:
    """What a contestant may want to look at before handing in."""
    warnings = []
    if looped := count_repeated_sentences(row.completion):
        warnings.append(
            SubmissionIssue(
                row=number,
                column="completion",
                problem=f"{looped} sentences repeat an earlier one",
                fix="the model may be caught in a loop",
            )
        )
    if echoes_prompt(row.prompt, row.completion):
        warnings.append(
            SubmissionIssue(
                row=number,
                column="completion",
                problem="it repeats its prompt",
                fix="hand in the continuation alone",
            )
        )
    if passages := find_judge_directed_text(row.completion):
        warnings.append(
            SubmissionIssue(
                row=number,
                column="completion",
                problem=f"{shown(passages[0])} speaks to a judge",
                fix="such stories are judged without it and flagged",
            )
        )
    return warnings


def normalize_prompt(text: str) -> str:
    """The text by which prompts are compared: Unicode NFC, line ends as one character."""
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n"))


def normalize_visible_text(text: str) -> str:
    """The text by which completions are compared: NFC, without invisible characters, white space as single spaces."""
    composed = unicodedata.normalize("NFC", text)
    visible = "".join(each for each in composed if each.isspace() or unicodedata.category(each)[0] != "C")
    return " ".join(visible.split())


def confusable_skeleton(text: str) -> str:
    """A text without what the eye misses: white space, case, compatibility forms, marks and quotes, look-alike letters."""
    folded = unicodedata.normalize("NFKD", text).casefold().translate(LOOK_ALIKES)
    return "".join(each for each in folded if unicodedata.category(each)[0] not in "ZCM")


def shown(text: str) -> str:
    """A text as a message quotes it: short, with invisible characters as escapes."""
    short = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
    return ascii(short) if any(not each.isprintable() for each in short) else repr(short)
