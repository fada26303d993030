"""What a team declares of the model behind its stories, and everything that can be wrong with it.

In: what was typed. Out: FieldProblems, each with the mend.
Beware: what is declared is only believed here; verification.py looks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from smalltale.rules import Rules
from smalltale.server.accounts.accounts import escape_unprintable
from smalltale.server.database.models import Team
from smalltale.server.errors import FieldProblem


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What a team says of the model behind its stories."""

    weight_class: str = ""
    counted_parameters: str = ""
    model_hash: str = ""
    data: str = ""
    sampling: str = ""
    from_scratch: bool = False


def check_declaration(rules: Rules, team: Team, declared: Declaration) -> list[FieldProblem]:
    """Everything wrong with a declaration."""
    problems = [
        FieldProblem(name, "it has a NUL character or half a character", "write plain text")
        for name in ("data", "sampling")
        if "\x00" in getattr(declared, name) or not whole(getattr(declared, name))
    ]
    open_classes = rules.classes_open_to(team.weight_class)
    chosen = next((each for each in open_classes if each.name == declared.weight_class), None)
    if chosen is None:
        names = ", ".join(each.name for each in open_classes)
        found = escape_unprintable(declared.weight_class) or "nothing"
        problems.append(
            FieldProblem(
                "weight_class",
                f"{found} is not open to {team.name}, whose hardware is {team.weight_class}",
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
    elif chosen is not None and int(digits) > chosen.max_parameters:
        problems.append(
            FieldProblem(
                "counted_parameters",
                f"{int(digits):,} is more than {chosen.name} allows ({chosen.max_parameters:,})",
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
                "only models trained from scratch may be handed in; tick the box",
            )
        )
    for name in ("data", "sampling"):
        value = getattr(declared, name)
        if len(value) > 1000:
            problems.append(FieldProblem(name, f"it has {len(value)} characters", "at most 1,000"))
    if not declared.data.strip():
        problems.append(
            FieldProblem("data", "nothing is named", "name the training data, for example TinyStories")
        )
    return problems


def whole(text: str) -> bool:
    """Whether a text can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
