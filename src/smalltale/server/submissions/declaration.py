"""Checks a team's declaration of the model behind its stories.

Input: the values of a form. Output: FieldProblems, each with its fix.
Note: the declaration is only checked for its form here; verification/ compares it with the model itself.
"""

from __future__ import annotations

import re
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


def check_declaration(rules: Rules, team: Team, declared: Declaration) -> list[FieldProblem]:
    """All problems of a declaration."""
    problems = [
        FieldProblem(name, "it has a NUL character or half a character", "write plain text")
        for name in ("data", "sampling")
        if "\x00" in getattr(declared, name) or not is_utf8_encodable(getattr(declared, name))
    ]
    open_classes = rules.classes_open_to(team.weight_class)
    weight_class = next(
        (open_class for open_class in open_classes if open_class.name == declared.weight_class), None
    )
    if weight_class is None:
        names = ", ".join(open_class.name for open_class in open_classes)
        declared_class = escape_unprintable(declared.weight_class) or "nothing"
        problems.append(
            FieldProblem(
                "weight_class",
                f"{declared_class} is not open to {team.name}, whose hardware is {team.weight_class}",
                f"choose one of: {names}",
            )
        )
    digits = re.sub(r"[ ,_.]", "", declared.counted_parameters)
    if not (digits.isascii() and digits.isdigit()) or not 0 < int(digits[:15]) < 10**12:
        problems.append(
            FieldProblem(
                "counted_parameters",
                f"{escape_unprintable(declared.counted_parameters) or 'nothing'} is not a number of parameters",
                "run: smalltale count CHECKPOINT",
            )
        )
    elif weight_class is not None and int(digits) > weight_class.max_parameters:
        problems.append(
            FieldProblem(
                "counted_parameters",
                f"{int(digits):,} is more than {weight_class.name} allows ({weight_class.max_parameters:,})",
                "choose a larger class or a smaller model",
            )
        )
    if not re.fullmatch(r"[0-9a-fA-F]{64}", declared.model_hash.strip()):
        problems.append(
            FieldProblem(
                "model_hash",
                f"{escape_unprintable(declared.model_hash) or 'nothing'} is not a SHA-256",
                "run: sha256sum model.safetensors",
            )
        )
    if not declared.from_scratch:
        problems.append(
            FieldProblem(
                "from_scratch",
                "it is not declared",
                "only models trained from scratch may be submitted; tick the box",
            )
        )
    for name in ("data", "sampling"):
        characters = len(getattr(declared, name))
        if characters > MAX_CHARACTERS:
            problems.append(
                FieldProblem(name, f"it has {characters} characters", f"at most {MAX_CHARACTERS:,}")
            )
    if not declared.data.strip():
        problems.append(
            FieldProblem("data", "it is empty", "name the training data, for example TinyStories")
        )
    return problems


def is_utf8_encodable(text: str) -> bool:
    """False for a text with half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
