"""Sampling settings as a team declares them: what `smalltale generate` wrote, or a line of plain words.

In: JSON with the keys of GenerationConfig, or words like "temperature 0.8, top-p 0.95". Out: Declared.
Beware: what a declaration does not name was not used; only where it cannot be read at all our own defaults stand in.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from smalltale.errors import RecipeError
from smalltale.generation.sampler import GenerationConfig

NOT_USED = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "loop_repeats": 0}
KEYS = {
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_tokens", "loop_repeats", "best_of", "seed", "dtype",
}  # fmt: skip
WORDS = re.compile(
    r"\b(temperature|top[ _-]?k|top[ _-]?p|min[ _-]?p|repetition[ _-]?penalty|max[ _-]?tokens|best[ _-]?of|seed)"
    r"\s*(?:of|is|[=:])?\s*([0-9]+(?:\.[0-9]+)?)",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Declared:
    """Settings to go by."""

    config: GenerationConfig
    readable: bool
    """Whether they are the team's; else ours."""
    seeded: bool
    """Whether the team names its seed."""


def declared_settings(text: str) -> Declared:
    """What a declaration says; a temperature is the least it must name."""
    found = from_json(text) or from_words(text)
    if "temperature" in found:
        try:
            config = TypeAdapter(GenerationConfig).validate_python({**NOT_USED, **found})
            return Declared(config=config, readable=True, seeded="seed" in found)
        except (ValidationError, RecipeError):
            pass
    return Declared(config=GenerationConfig(), readable=False, seeded=False)


def from_json(text: str) -> dict[str, object]:
    """The settings of a JSON object, nothing where it is none."""
    try:
        table = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return {key: value for key, value in table.items() if key in KEYS} if isinstance(table, dict) else {}


def from_words(text: str) -> dict[str, object]:
    """The settings that stand in a line of words."""
    found: dict[str, object] = {}
    for name, value in WORDS.findall(text):
        key = re.sub(r"[ _-]", "", name.lower())
        key = next(each for each in KEYS if each.replace("_", "") == key)
        found[key] = float(value) if "." in value else int(value)
    return found
