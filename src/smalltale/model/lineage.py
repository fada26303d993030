"""Where data has been: which products stand behind it, and which weights it still carries.

In: operators over data, as the tracer meets them. Out: for each meeting whether it ends in the output, and how often its
result was multiplied with other data as if it were a weight.
Beware: what is said of a tensor is said of its storage.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor

from smalltale.model.meetings import PRODUCTS, Meeting


class Past(NamedTuple):
    """What stands behind one storage of data; the numbers are sets of meetings, a bit each."""

    met: bool = False
    """A weight stands behind it."""
    decoders: int = 0
    """Products that may be a decoder."""
    carried: int = 0
    """Look-ups and elementwise meetings whose weights it still shows, one by one."""


NOTHING = Past()


class Lineage:
    """The past of every storage of data, by the storage's key."""

    def __init__(self) -> None:
        self.pasts: dict[int, Past] = {}
        self.candidates: list[Meeting] = []
        self.carriers: list[Meeting] = []
        self.gone_on = 0

    def of(self, key: int) -> Past:
        return self.pasts.get(key, NOTHING)

    def together(self, keys: Iterable[int]) -> Past:
        pasts = [self.of(key) for key in keys]
        decoders = carried = 0
        for each in pasts:
            decoders |= each.decoders
            carried |= each.carried
        return Past(any(each.met for each in pasts), decoders, carried)

    def met(self, past: Past, meeting: Meeting, elementwise: bool) -> Past:
        """The past of what a meeting makes of data with `past`."""
        if not elementwise:
            self.gone_on |= past.decoders
        decoders, carried = past.decoders, past.carried if elementwise else 0
        if meeting.kind == "product":
            decoders |= 1 << len(self.candidates)
            self.candidates.append(meeting)
        elif elementwise or meeting.kind == "lookup":
            carried |= 1 << len(self.carriers)
            self.carriers.append(meeting)
        return Past(True, decoders, carried)

    def mixed(self, name: str, data: list[tuple[Tensor, Past]], past: Past, keeps: bool) -> Past:
        """The past of what data alone makes; `keeps` where the operator moves elements or works on each alone."""
        for tensor, own in data:
            if own.carried and name in PRODUCTS and tensor.dim() >= 2 and min(tensor.shape[-2:]) > 1:
                self.gone_on |= past.decoders
                for place, meeting in enumerate(self.carriers):
                    meeting.applied += own.carried >> place & 1
        return past if keeps else past._replace(carried=0)

    def finish(self, output: Past) -> None:
        """Say of every product whether it is an end."""
        for number, meeting in enumerate(self.candidates):
            meeting.ends = bool((output.decoders & ~self.gone_on) >> number & 1)
