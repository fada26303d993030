"""Validate a submission against the prompts and the rules, and report every problem at once.

Input: a file, the prompts that it must answer, the rules. Output: a ValidationResult.
Pitfall: the file is untrusted. Nothing in it is executed, and no content may make the validation itself fail.
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
from smalltale.submission.table import COLUMNS, MAX_QUOTED, Completion, SubmissionIssue, read_table
from smalltale.text_signals import (
    count_repeated_sentences,
    echoes_prompt,
    find_judge_directed_text,
    has_visible_text,
)

LOOK_ALIKES = str.maketrans("“”‘’–—авсԁенһіјкморԛѕтухԝαεικνορτυχ", "\"\"''--abcdehhijkmopqstyxwaeikvoptux")
"""Typographic quotes and dashes, and the Cyrillic and Greek small letters that look like Latin ones."""


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """Errors, which refuse a submission, warnings, which do not, and the rows that could be read."""

    errors: tuple[SubmissionIssue, ...]
    warnings: tuple[SubmissionIssue, ...]
    rows: tuple[Completion, ...]

    @property
    def accepted(self) -> bool:
        return not self.errors


def check_submission_files(path: Path, prompts: Path, rules: Rules) -> ValidationResult:
    """`check_submission` with the prompts of a file and with the declaration next to the submission."""
    result = check_submission(path, read_prompts(prompts), rules)
    errors, warnings = check_declaration(path, rules)
    return replace(result, errors=(*result.errors, *errors), warnings=(*result.warnings, *warnings))


def check_submission(path: Path, prompts: Sequence[str], rules: Rules) -> ValidationResult:
    """Check a submission against its prompts. Never raises for the file's content: that becomes an error of the result."""
    with translate_os_errors(path):
        size = path.stat().st_size
    if size > rules.max_submission_bytes:
        return refuse_file(f"the file has {size:,} bytes", f"the limit is {rules.max_submission_bytes:,}")
    try:
        table = read_table(path)
    except FileProblem as error:
        problem, _, fix = str(error).partition("; ")
        return refuse_file(problem, fix)
    unreadable_cells = {(issue.row, issue.column) for issue in table.issues}
    errors = table.issues + [
        error
        for number, row in table.rows.items()
        for error in check_row(number, row, rules)
        if (number, error.column) not in unreadable_cells
    ]
    errors += check_prompts(table.rows, prompts, rules)
    errors.sort(key=lambda issue: (issue.row is None, issue.row))
    return ValidationResult(
        errors=tuple(errors),
        warnings=tuple(issue for number, row in table.rows.items() for issue in warn_about_row(number, row)),
        rows=tuple(table.rows.values()),
    )


def refuse_file(problem: str, fix: str) -> ValidationResult:
    """The result for a file without usable rows."""
    return ValidationResult(errors=(SubmissionIssue(problem=problem, fix=fix),), warnings=(), rows=())


def check_row(number: int, row: Completion, rules: Rules) -> list[SubmissionIssue]:
    """Errors of one row on its own."""
    errors = []
    for column in COLUMNS:
        cell: str = getattr(row, column)
        if "\x00" in cell:
            problem, fix = "it has a NUL character", "remove it"
        elif not has_visible_text(cell):
            problem, fix = "it is empty or invisible", "give a story"
        elif len(cell) > rules.max_completion_characters:
            problem = f"it has {len(cell):,} characters"
            fix = f"the limit is {rules.max_completion_characters:,}"
        else:
            continue
        errors.append(SubmissionIssue(row=number, column=column, problem=problem, fix=fix))
    return errors


def check_prompts(rows: dict[int, Completion], prompts: Sequence[str], rules: Rules) -> list[SubmissionIssue]:
    """Issues of unknown prompts, wrong numbers of completions, and repeated completions of a prompt."""
    prompt_by_key = {normalize_prompt(prompt): prompt for prompt in prompts}
    prompt_by_skeleton = {confusable_skeleton(prompt): prompt for prompt in prompts}
    completions_by_key: dict[str, list[tuple[int, str]]] = defaultdict(list)
    errors = []
    for number, row in rows.items():
        key = normalize_prompt(row.prompt)
        if key in prompt_by_key:
            completions_by_key[key].append((number, row.completion))
        elif key:  # an empty cell is already reported
            near = prompt_by_skeleton.get(confusable_skeleton(row.prompt))
            errors.append(unknown_prompt(number, row.prompt, near))
    required = rules.completions_per_prompt
    for key, prompt in prompt_by_key.items():
        completions = completions_by_key[key]
        if len(completions) != required:
            problem = f"prompt {quote_text(prompt)}: {len(completions)} of {required} completions"
            errors.append(SubmissionIssue(problem=problem, fix=f"every prompt needs {required}"))
        errors += find_repeats(completions, required)
    return errors


def unknown_prompt(number: int, prompt: str, near: str | None) -> SubmissionIssue:
    """The issue of a row whose prompt is not in the set; `near` is a prompt that looks the same."""
    if near is None:
        problem = f"{quote_text(prompt)} is not one of the prompts"
        fix = "copy the prompts exactly from the prompt file"
    else:
        problem = f"{quote_text(prompt)} differs from a prompt only in white space or look-alike characters"
        fix = f"write it as {quote_text(near)}, {len(near)} characters"
    return SubmissionIssue(row=number, column="prompt", problem=problem, fix=fix)


def find_repeats(completions: Sequence[tuple[int, str]], required: int) -> list[SubmissionIssue]:
    """Completions that look the same as an earlier one of their prompt."""
    first_row: dict[str, int] = {}
    errors = []
    for number, completion in completions:
        earlier = first_row.setdefault(normalize_visible_text(completion), number)
        if earlier != number and has_visible_text(completion):
            problem = f"it reads the same as in row {earlier}"
            fix = f"the {required} completions of a prompt must differ"
            errors.append(SubmissionIssue(row=number, column="completion", problem=problem, fix=fix))
    return errors


def warn_about_row(number: int, row: Completion) -> list[SubmissionIssue]:
    """Signs of a weak or flagged story, which a contestant may want to check before submitting."""
    warnings = []
    if repeats := count_repeated_sentences(row.completion):
        noun = "sentence" if repeats == 1 else "sentences"
        warnings.append((f"{repeats} repeated {noun}", "the model may be in a loop"))
    if echoes_prompt(row.prompt, row.completion):
        warnings.append(("it repeats its prompt", "submit the continuation alone"))
    if passages := find_judge_directed_text(row.completion):
        fix = "such stories are judged without the passage and flagged"
        warnings.append((f"{quote_text(passages[0])} addresses a judge", fix))
    return [
        SubmissionIssue(row=number, column="completion", problem=problem, fix=fix)
        for problem, fix in warnings
    ]


def normalize_prompt(text: str) -> str:
    """The form in which prompts are compared: Unicode NFC, CRLF as LF."""
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n"))


def normalize_visible_text(text: str) -> str:
    """The form in which completions are compared: NFC, without invisible characters, white space as single spaces."""
    composed = unicodedata.normalize("NFC", text)
    visible = "".join(char for char in composed if char.isspace() or unicodedata.category(char)[0] != "C")
    return " ".join(visible.split())


def confusable_skeleton(text: str) -> str:
    """A text reduced to what the eye sees: no white space, case, marks or quotes; look-alike letters as Latin ones (NFKD)."""
    folded = unicodedata.normalize("NFKD", text).casefold().translate(LOOK_ALIKES)
    return "".join(char for char in folded if unicodedata.category(char)[0] not in "ZCM")


def quote_text(text: str) -> str:
    """A text in quotes for a message: shortened, with invisible characters as escapes."""
    short = text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}…"
    return repr(short) if all(char.isprintable() for char in short) else ascii(short)
