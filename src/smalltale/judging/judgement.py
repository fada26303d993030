"""One judgement: a strict reading of a judge's answer, right or absent.

In: a judge's text. Out: an Answer, or a Problem that says what was missing.
Beware: nothing here clamps, rounds, guesses or fills in; a score outside its scale is no score.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from smalltale.judging.rubric import CHECK, Rubric, RubricField

State = Literal["ok", "unparsable", "refused", "error"]
STATES: tuple[State, ...] = ("ok", "unparsable", "refused", "error")
FENCE = re.compile(r"\A```(?:json)?\s*\n(.*?)\n?```\Z", re.DOTALL)
MAX_QUOTED = 80


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A valid answer. `scores` has every criterion of the rubric."""

    scores: Mapping[str, float]
    choices: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class InvalidAnswer:
    """Why an answer does not count, in words that a re-ask can quote."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What one judge said of one completion. Scores are there in state ok and in no other."""

    prompt: str
    sample: int
    judge: str
    rubric: str
    rubric_hash: str
    state: State
    overall: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    weighted: Mapping[str, float] = field(default_factory=dict)
    """Scores as means over the judge's own probabilities of each mark, where the provider gives them."""
    calibrated: float | None = None
    """The overall score on the gold set's common scale, where the whole panel is calibrated (panel.py)."""
    weight: float | None = None
    """The judge's share in that panel's mean, beside the others' shares."""
    age: str | None = None
    words: str = ""
    reason: str = ""
    """Why there is no score."""
    flags: tuple[str, ...] = ()
    overall_as_written: float | None = None
    """The overall score with the sentences that speak to the judge; None where there are none."""
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    key: str = ""

    @property
    def ranking_score(self) -> float | None:
        """The overall score as it counts: on the panel's common scale where there is one."""
        return self.overall if self.calibrated is None else self.calibrated


def parse_answer(text: str, rubric: Rubric, nonce: str) -> Answer | InvalidAnswer:
    """Read an answer. Exactly one JSON object with exactly the rubric's keys, each value in its range."""
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
    """Check every key of an answer."""
    missing = [name for name in (CHECK, *rubric.fields) if name not in value]
    foreign = [name for name in value if name != CHECK and name not in rubric.fields]
    if missing:
        return InvalidAnswer(f"the keys {', '.join(missing)} were missing")
    if foreign:
        return InvalidAnswer(
            f"the keys {', '.join(quote_value(name) for name in foreign)} were not asked for"
        )
    if value[CHECK] != nonce:
        return InvalidAnswer(f'"{CHECK}" must be the text {nonce}, and was {quote_value(value[CHECK])}')
    for name, each in rubric.fields.items():
        if not is_valid_value(value[name], each):
            return InvalidAnswer(f'"{name}" must be {each.describe()}, and was {quote_value(value[name])}')
    kinds = {
        kind: {name for name, each in rubric.fields.items() if each.kind == kind}
        for kind in ("choice", "words")
    }
    return Answer(
        scores={name: float(value[name]) for name in rubric.criteria},
        choices={name: value[name] for name in rubric.fields if name in kinds["choice"]},
        words={name: value[name] for name in rubric.fields if name in kinds["words"]},
    )


def is_valid_value(value: Any, wanted: RubricField) -> bool:
    """Whether a value is what a field asks for."""
    if wanted.kind == "score":
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and wanted.low <= value <= wanted.high and value == int(value)
    if wanted.kind == "choice":
        return isinstance(value, str) and value in wanted.choices
    return isinstance(value, str) and bool(value.strip())


def quote_value(value: Any) -> str:
    """A value as a message shows it, short."""
    shown = json.dumps(value, ensure_ascii=True)
    return shown if len(shown) <= MAX_QUOTED else f"{shown[:MAX_QUOTED]}…"


def refuse_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys come once each. Raises ValueError."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key came twice")
    return found


def refuse_nan_and_infinity(name: str) -> Any:
    """NaN and Infinity are not JSON. Raises ValueError."""
    raise ValueError(f"{name} is not a number")
