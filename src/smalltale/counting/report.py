"""The results of a count: settled uses, a row per weight tensor, notes, and the reasons why a count is not proven."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from smalltale.counting.tracing.use_counts import UseCounts, max_uses


class CountRow(NamedTuple):
    """One weight tensor; further names of the same tensor are part of `name`."""

    name: str
    shape: str
    unique: int
    uses: int
    """The most uses of any of its elements; an embedding and its decoder are one use."""
    counted: int
    trained: bool


@dataclass(frozen=True, kw_only=True)
class CountReport:
    """The parameter count of a module under the hackathon's rule."""

    unique: int
    """Trained weights, each once."""
    counted: int
    weight_class: str | None
    """The smallest class it fits, None if it fits none."""
    rows: tuple[CountRow, ...]
    notes: tuple[str, ...]
    """What is tied, reused and not counted, why the count is not proven, and the budget left."""
    proven: bool
    """Whether the trace is complete and all further uses in longer inputs are explained."""


@dataclass(frozen=True)
class Notes:
    """What a step of the count adds to the report; any line in `unproven` makes the count unproven."""

    explained: tuple[str, ...] = ()
    unproven: tuple[str, ...] = ()

    def __add__(self, notes: Notes) -> Notes:
        return Notes(self.explained + notes.explained, self.unproven + notes.unproven)


@dataclass(frozen=True)
class SettledUses:
    """How often each weight element is used, with the notes of all steps."""

    counts: UseCounts
    notes: Notes

    def raise_to(self, counts: UseCounts, doubts: Sequence[str] = ()) -> SettledUses:
        """The same with the maximum of both counts, and further reasons why these are not proven."""
        return SettledUses(max_uses([self.counts, counts]), self.notes + Notes(unproven=tuple(doubts)))

    def add_notes(self, notes: Notes) -> SettledUses:
        return SettledUses(self.counts, self.notes + notes)


def join_names(names: Sequence[str], limit: int = 4) -> str:
    """The first names, separated by commas, and how many more there are."""
    shown = ", ".join(names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown
