"""Parses the sampling settings that a team declares: what `smalltale generate` wrote, or a line of text.

Input: JSON with the keys of GenerationConfig, or text like "temperature 0.8, top-p 0.95". Output: DeclaredSampling.
Settings missing from a declaration count as not used; defaults replace only a declaration that cannot be read.
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
SETTING = re.compile(
    r"\b(temperature|top[ _-]?k|top[ _-]?p|min[ _-]?p|repetition[ _-]?penalty|max[ _-]?tokens|best[ _-]?of|seed)"
    r"\s*(?:of|is|[=:])?\s*([0-9]+(?:\.[0-9]+)?)",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class DeclaredSampling:
    """Parsed settings."""

    config: GenerationConfig
    readable: bool
    """The settings are the team's; if false, they are the defaults."""
    seeded: bool
    """The team declares its seed."""


def parse_declared_sampling(text: str) -> DeclaredSampling:
    """The declared settings; a declaration needs at least a temperature."""
    settings = parse_json(text) or parse_text(text)
    if "temperature" in settings:
        try:
            config = TypeAdapter(GenerationConfig).validate_python({**NOT_USED, **settings})
            return DeclaredSampling(config=config, readable=True, seeded="seed" in settings)
        except (ValidationError, RecipeError):
            pass
    return DeclaredSampling(config=GenerationConfig(), readable=False, seeded=False)


def parse_json(text: str) -> dict[str, object]:
    """The settings in a JSON object; empty for other text."""
    try:
        table = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return {key: setting for key, setting in table.items() if key in KEYS} if isinstance(table, dict) else {}


def parse_text(text: str) -> dict[str, object]:
    """The settings in a line of text."""
    settings: dict[str, object] = {}
    for name, number in SETTING.findall(text):
        squeezed = re.sub(r"[ _-]", "", name.lower())
        key = next(key for key in KEYS if key.replace("_", "") == squeezed)
        settings[key] = float(number) if "." in number else int(number)
    return settings
