"""`submission.json`, the declaration of a submission: team, weight class, model, training data.

Input: the file next to a submission. Output: errors for values that cannot be right, warnings for missing fields.
Pitfall: it is only the team's claim; a finalist's model is counted and run again by the organiser (server/verification).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from smalltale.errors import FileProblem, SmalltaleError
from smalltale.files import read_json, write_json
from smalltale.rules import Rules
from smalltale.submission.table import SubmissionIssue

FIX_BY_FIELD = {
    "team": "name your team",
    "hardware": "copy the part machine from: smalltale doctor --json",
    "weight_class": "name the class you enter",
    "counted_parameters": "run: smalltale count CHECKPOINT",
    "model_hash": "run: sha256sum model.safetensors",
    "data": "list the training data, for example TinyStories",
    "trained_from_scratch": "declare it; only models trained from scratch may be submitted",
    "run_record_hash": "run: sha256sum meta.json, in the checkpoint",
}
"""The fields that a declaration should have, and how to get each."""


def write_declaration(submission: Path, declaration: dict[str, Any]) -> None:
    """Write `submission.json` next to a submission."""
    write_json(declaration_path(submission), {"kind": "submission", "format": 1, **declaration})


def declaration_path(submission: Path) -> Path:
    """Path of a submission's declaration."""
    return submission.with_name("submission.json")


def check_declaration(submission: Path, rules: Rules) -> tuple[list[SubmissionIssue], list[SubmissionIssue]]:
    """Errors of the declaration next to a submission, and warnings for the fields that it lacks."""
    path = declaration_path(submission)
    if not path.exists():
        fix = "smalltale generate writes it; the hackathon's submission form has the same fields"
        return [], [SubmissionIssue(problem=f"there is no {path.name} next to {submission.name}", fix=fix)]
    try:
        declaration = read_json(path)
    except FileProblem as error:
        problem, _, fix = str(error).partition("; ")
        return [SubmissionIssue(problem=problem, fix=fix)], []
    if not isinstance(declaration, dict):
        problem = f"{path.name} is not a JSON object"
        return [SubmissionIssue(problem=problem, fix="let smalltale generate write it")], []
    warnings = [
        field_issue(field, "is not declared", fix)
        for field, fix in FIX_BY_FIELD.items()
        if not declaration.get(field)
    ]
    return find_errors(declaration, rules), warnings


def find_errors(declaration: dict[str, Any], rules: Rules) -> list[SubmissionIssue]:
    """An issue for each declared value that cannot be right."""
    errors = []
    count, model_hash = declaration.get("counted_parameters"), declaration.get("model_hash")
    if count and (not isinstance(count, int) or count < 0):
        problem = f"{count!r:.60} is not a number of parameters"
        errors.append(field_issue("counted_parameters", problem, FIX_BY_FIELD["counted_parameters"]))
        count = None
    if model_hash and not re.fullmatch("[0-9a-fA-F]{64}", str(model_hash)):
        problem = f"{model_hash!r:.80} is not a SHA-256"
        errors.append(field_issue("model_hash", problem, FIX_BY_FIELD["model_hash"]))
    if class_name := declaration.get("weight_class"):
        try:
            limit = rules.weight_class(str(class_name)).max_parameters
        except SmalltaleError as error:
            problem, _, fix = str(error).partition("; ")
            errors.append(field_issue("weight_class", problem, fix))
        else:
            if count and count > limit:
                problem = f"{count:,} is over the limit of class {class_name} ({limit:,})"
                fix = "enter a larger class, or train a smaller model"
                errors.append(field_issue("counted_parameters", problem, fix))
    return errors


def field_issue(field: str, problem: str, fix: str) -> SubmissionIssue:
    """An issue of one field of submission.json."""
    return SubmissionIssue(problem=f"{field} in submission.json: {problem}", fix=fix)
