"""`submission.json`, which declares a hand-in: who, in which class, with which model, trained on what.

In: the file beside a hand-in. Out: what an organiser would refuse or ask about.
Beware: it is the team's word; the organiser's own checks (a finalist's model is counted and run again) stand apart.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from smalltale.errors import FileProblem, SmalltaleError
from smalltale.files import read_json, write_json
from smalltale.rules import Rules
from smalltale.submission.table import SubmissionIssue

ASKED = {
    "team": "name your team",
    "hardware": "copy what stands under machine in: smalltale doctor --json",
    "weight_class": "name the class you enter",
    "counted_parameters": "run: smalltale count CHECKPOINT",
    "model_hash": "run: sha256sum model.safetensors",
    "data": "list the training data, for example TinyStories",
    "trained_from_scratch": "declare it; only models trained from scratch may be handed in",
    "run_record_hash": "run: sha256sum meta.json, in the checkpoint",
}


def write_declaration(hand_in: Path, declaration: dict[str, Any]) -> None:
    """Write `submission.json` beside a hand-in."""
    write_json(declaration_path(hand_in), {"kind": "submission", "format": 1, **declaration})


def declaration_path(hand_in: Path) -> Path:
    """Where a hand-in's declaration stands."""
    return hand_in.with_name("submission.json")


def check_declaration(hand_in: Path, rules: Rules) -> tuple[list[SubmissionIssue], list[SubmissionIssue]]:
    """What is wrong with the declaration beside a hand-in, and what it leaves open."""
    path = declaration_path(hand_in)
    if not path.exists():
        mend = "smalltale generate writes it; the form of the hackathon's page asks the same"
        return [], [finding("file", f"no {path.name} stands beside {hand_in.name}", mend)]
    try:
        told = read_json(path)
    except FileProblem as problem:
        found, _, mend = str(problem).partition("; ")
        return [finding("file", found, mend)], []
    if not isinstance(told, dict):
        return [finding("file", f"{path.name} is no object", "let smalltale generate write it")], []
    open_ = [finding(name, "it is not declared", mend) for name, mend in ASKED.items() if not told.get(name)]
    return errors_of(told, rules), open_


def errors_of(told: dict[str, Any], rules: Rules) -> list[SubmissionIssue]:
    """What is declared and cannot be right."""
    errors = []
    entered, count, model = (told.get(name) for name in ("weight_class", "counted_parameters", "model_hash"))
    if count and (not isinstance(count, int) or count < 0):
        errors.append(
            finding("counted_parameters", f"{count!r:.60} is no number", ASKED["counted_parameters"])
        )
        count = None
    if model and not re.fullmatch("[0-9a-fA-F]{64}", str(model)):
        errors.append(finding("model_hash", f"{model!r:.80} is no SHA-256", ASKED["model_hash"]))
    if entered:
        try:
            most = rules.weight_class(str(entered)).max_parameters
        except SmalltaleError as problem:
            found, _, mend = str(problem).partition("; ")
            errors.append(finding("weight_class", found, mend))
        else:
            if count and count > most:
                found = f"{count:,} are more than {entered} allows ({most:,})"
                mend = "enter a larger class, or train a smaller model"
                errors.append(finding("counted_parameters", found, mend))
    return errors


def finding(key: str, found: str, mend: str) -> SubmissionIssue:
    """Something about submission.json."""
    return SubmissionIssue(row=None, column=f"{key} (submission.json)", problem=found, fix=mend)
