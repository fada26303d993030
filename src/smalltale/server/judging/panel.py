"""The protocol between the worker and a panel of judges: stories in, one opinion per story and judge out."""

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
    """One judge's answer about one story."""

    completion_id: int
    judge: str
    state: str
    overall: float | None = None
    calibrated: float | None = None
    """`overall` on the panel's common scale; None if the panel has none."""
    weight: float | None = None
    """The judge's weight in the panel's mean."""
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
        """One judge's opinion of each story. Raises SmalltaleError if the judge cannot be reached at all."""
        ...
