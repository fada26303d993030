"""Judgements: an answer is right or absent, never clamped, guessed or zero.

In: the text a judge answered. Out: scores, or why there are none.
Beware: exactly one JSON object is accepted, with whole numbers inside the scale and the nonce that was sent.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from smalltale.judging.rubric import Rubric

State = Literal["ok", "unparsable", "refused", "error"]
REFUSAL = re.compile(r"\b(?:I can(?:no|')t|I am unable|I'm unable|I won't|as an AI)\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What an answer says, where it can be read."""

    scores: dict[str, float]
    age: str
    assessment: str


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One judge on one completion."""

    prompt: str
    completion: str
    sample: int
    """Number of the completion among those of its prompt, from 0."""
    judge: str
    rubric: str
    rubric_hash: str
    state: State
    scores: dict[str, float] = field(default_factory=dict)
    """A number for each criterion where the state is ok, else empty."""
    age: str = ""
    words: str = ""
    """The judge's assessment; where there is none, what went wrong."""
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0

    @property
    def overall(self) -> float | None:
        """The mean of the criteria, None where there are no scores."""
        return sum(self.scores.values()) / len(self.scores) if self.scores else None


class NotReadable(ValueError):
    """An answer that cannot be read; the message says what is missing, in words a judge can act on."""


def read_answer(text: str, rubric: Rubric, nonce: str) -> Answer:
    """The scores in an answer. Raises NotReadable."""
    stripped = re.sub(r"\A```(?:json)?\s*|\s*```\Z", "", text.strip())
    try:
        table = json.loads(stripped, parse_constant=not_a_number)
    except json.JSONDecodeError as error:
        raise NotReadable(f"the answer is not one whole JSON object ({error.msg})") from error
    if not isinstance(table, dict):
        raise NotReadable("the answer is not a JSON object")
    if table.get("nonce") != nonce:
        raise NotReadable(f"the nonce must be {nonce}")
    low, high = rubric.scale
    scores = {}
    for name in rubric.criteria:
        value: Any = table.get(name)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or value != int(value)
            or not low <= value <= high
        ):
            raise NotReadable(f"{name} must be one whole number from {low} to {high}, found {value!r}")
        scores[name] = float(value)
    age = table.get("age")
    if age not in rubric.ages:
        raise NotReadable(f"age must be one of {', '.join(rubric.ages)}, found {age!r}")
    return Answer(scores=scores, age=str(age), assessment=str(table.get("assessment", "")))


def not_a_number(name: str) -> float:
    """JSON has no NaN and no infinity."""
    raise NotReadable(f"{name} is not a number")


def is_refusal(text: str) -> bool:
    """Whether an answer without scores declines to judge."""
    return "{" not in text and REFUSAL.search(text) is not None
