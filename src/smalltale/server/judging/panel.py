"""What the worker asks of a panel of judges: stories in, one opinion of each judge on each story out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Story:
    """One story to be judged."""

    id: int
    prompt: str
    sample: int
    text: str


@dataclass(frozen=True, kw_only=True)
class JudgeOpinion:
    """What one judge said of one story."""

    story: int
    judge: str
    state: str
    overall: float | None = None
    calibrated: float | None = None
    """On the panel's common scale, where it has one; `weight` is the judge's share in its mean."""
    weight: float | None = None
    scores: dict[str, float] = field(default_factory=dict)
    age: str | None = None
    words: str = ""


class Panel(Protocol):
    """The judges of an edition."""

    @property
    def judges(self) -> Sequence[str]: ...

    @property
    def qualified(self) -> bool: ...

    def judge(self, stories: Sequence[Story], judge: str) -> Iterable[JudgeOpinion]:
        """One opinion for each story. Raises SmalltaleError where the judge cannot be reached at all."""
        ...
