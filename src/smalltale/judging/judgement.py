"""Judgements, and strict parsing of a judge's answer.

Input: a judge's text. Output: an Answer, or an InvalidAnswer with the reason.
Note: nothing is clamped, rounded, guessed or filled in; a score outside its scale is invalid.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from smalltale.judging.rubric import CHECK, Rubric, RubricField
from smalltale.ranking.standings import State

STATES: tuple[State, ...] = get_args(State)
FENCE = re.compile(r"\A```(?:json)?\s*\n(.*?)\n?```\Z", re.DOTALL)
MAX_QUOTED = 80


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A valid answer. `scores` has all criteria of the rubric."""

    scores: Mapping[str, float]
    choices: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class InvalidAnswer:
    """Why an answer is invalid, as a re-ask quotes it to the judge."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One judge's judgement of one completion. It has scores in state ok only."""

    prompt: str
    sample: int
    judge: str
    rubric: str
    rubric_hash: str
    state: State
    overall: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    weighted: Mapping[str, float] = field(default_factory=dict)
    """Expected scores under the judge's token probabilities, where the provider returns them."""
    calibrated: float | None = None
    """The overall score on the gold set's common scale, if all judges of the panel are calibrated (panel.py)."""
    weight: float | None = None
    """The judge's share in that panel's mean."""
    age: str | None = None
    words: str = ""
    reason: str = ""
    """Why the judgement has no score."""
    flags: tuple[str, ...] = ()
    overall_as_written: float | None = None
    """The overall score of the story with its sentences that speak to the judge; None if there are none."""
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    key: str = ""

    @property
    def ranking_score(self) -> float | None:
        """The overall score that ranks: on the panel's common scale if it has one."""
        return self.overall if self.calibrated is None else self.calibrated


def parse_answer(text: str, rubric: Rubric, nonce: str) -> Answer | InvalidAnswer:
    """Parse an answer: exactly one JSON object with exactly the rubric's keys, each value in its range."""
    stripped = text.strip()
    fenced = FENCE.match(stripped)
    try:
        value = json.loads(
            fenced.group(1) if fenced else stripped,
            object_pairs_hook=refuse_duplicate_keys,
            parse_constant=refuse_nan_and_infinity,
        )
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return InvalidAnswer(
                "there was more than one JSON object, or text after it; give one object alone"
            )
        if error.pos >= len(stripped.rstrip("`")) - 1 or error.msg.startswith("Unterminated"):
            return InvalidAnswer("the JSON object was cut off before its end")
        return InvalidAnswer(f"the answer was not one JSON object ({error.msg} at character {error.pos})")
    except (ValueError, RecursionError) as error:
        return InvalidAnswer(f"the answer was not one JSON object ({error})")
    if not isinstance(value, dict):
        return InvalidAnswer("the answer was not a JSON object")
    return validate_answer(value, rubric, nonce)


def validate_answer(value: Mapping[str, Any], rubric: Rubric, nonce: str) -> Answer | InvalidAnswer:
    """Check the keys and values of an answer."""
    missing = [name for name in (CHECK, *rubric.fields) if name not in value]
    unknown = [name for name in value if name != CHECK and name not in rubric.fields]
    if missing:
        return InvalidAnswer(f"the keys {', '.join(missing)} were missing")
    if unknown:
        return InvalidAnswer(
            f"the keys {', '.join(quote_value(name) for name in unknown)} were not asked for"
        )
    if value[CHECK] != nonce:
        return InvalidAnswer(f'"{CHECK}" must be the text {nonce}, and was {quote_value(value[CHECK])}')
    for name, field_ in rubric.fields.items():
        if not is_valid_value(value[name], field_):
            return InvalidAnswer(f'"{name}" must be {field_.describe()}, and was {quote_value(value[name])}')
    return Answer(
        scores={name: float(value[name]) for name in rubric.criteria},
        choices={name: value[name] for name, field_ in rubric.fields.items() if field_.kind == "choice"},
        words={name: value[name] for name, field_ in rubric.fields.items() if field_.kind == "words"},
    )


def is_valid_value(value: Any, field_: RubricField) -> bool:
    """Whether a value has the type and range of a field."""
    if field_.kind == "score":
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and field_.low <= value <= field_.high and value == int(value)
    if field_.kind == "choice":
        return isinstance(value, str) and value in field_.choices
    return isinstance(value, str) and bool(value.strip())


def quote_value(value: Any) -> str:
    """A value as JSON, shortened for a message."""
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}…"


def refuse_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; json.loads alone keeps the last of duplicate keys. Raises ValueError."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key came twice")
    return value


def refuse_nan_and_infinity(name: str) -> Any:
    """Raises ValueError: json.loads would accept NaN and Infinity."""
    raise ValueError(f"{name} is not a number")
