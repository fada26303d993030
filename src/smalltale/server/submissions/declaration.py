"""Checks a team's declaration of the model behind its stories.

Input: the values of a form. Output: FieldProblems, each with its fix.
Note: only the form of the declaration is checked here; verification/ compares it with the model itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from smalltale.rules import Rules
from smalltale.server.accounts.accounts import escape_unprintable
from smalltale.server.database.models import Team
from smalltale.server.errors import FieldProblem

MAX_CHARACTERS = 1000


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """A team's statements about the model behind its stories."""

    weight_class: str = ""
    counted_parameters: str = ""
    model_hash: str = ""
    data: str = ""
    sampling: str = ""
    from_scratch: bool = False


def check_declaration(rules: Rules, team: Team, declared: Declaration) -> Iterator[FieldProblem]:
    """All problems of a declaration."""
    open_classes = rules.classes_open_to(team.weight_class)
    weight_class = next((option for option in open_classes if option.name == declared.weight_class), None)
    if weight_class is None:
        yield FieldProblem(
            "weight_class",
            f"{escape_unprintable(declared.weight_class)} is not open to {team.name}, whose hardware is {team.weight_class}",
            f"choose one of: {', '.join(open_class.name for open_class in open_classes)}",
        )
    digits = re.sub(r"[ ,_.]", "", declared.counted_parameters)
    if not (digits.isascii() and digits.isdigit()) or not 0 < int(digits[:15]) < 10**12:
        yield FieldProblem(
            "counted_parameters",
            f"{escape_unprintable(declared.counted_parameters)} is not a number of parameters",
            "run: smalltale count CHECKPOINT",
        )
    elif weight_class is not None and int(digits) > weight_class.max_parameters:
        yield FieldProblem(
            "counted_parameters",
            f"{int(digits):,} is more than {weight_class.name} allows ({weight_class.max_parameters:,})",
            "choose a larger class or a smaller model",
        )
    if not re.fullmatch(r"[0-9a-fA-F]{64}", declared.model_hash.strip()):
        message = f"{escape_unprintable(declared.model_hash)} is not a SHA-256"
        yield FieldProblem("model_hash", message, "run: sha256sum model.safetensors")
    if not declared.from_scratch:
        fix = "only models trained from scratch may be submitted; tick the box"
        yield FieldProblem("from_scratch", "it is not declared", fix)
    for field, text in (("data", declared.data), ("sampling", declared.sampling)):
        if "\x00" in text or text.encode("utf-8", "ignore").decode() != text:
            yield FieldProblem(field, "it has a NUL character or half a surrogate pair", "write plain text")
        if len(text) > MAX_CHARACTERS:
            yield FieldProblem(field, f"it has {len(text)} characters", f"write at most {MAX_CHARACTERS:,}")
    if not declared.data.strip():
        yield FieldProblem("data", "it is empty", "name the training data, for example TinyStories")
