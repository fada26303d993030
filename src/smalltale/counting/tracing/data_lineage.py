"""Where data has been: which products stand behind it, and which weights it still carries.

In: operators over data, as the tracer meets them. Out: for each meeting whether it ends in the output, and how often its
result was multiplied with other data as if it were a weight.
Beware: what is said of a tensor is said of its storage.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from smalltale.counting.tracing.trace import PRODUCTS, Meeting

MULTIPLIES = PRODUCTS | {"convolution", "_grouped_mm"}


class Past(NamedTuple):
    """What stands behind one storage of data; the numbers are sets of meetings, a bit each."""

    met: bool = False
    """A weight stands behind it."""
    decoders: int = 0
    """Products that may be a decoder."""
    carried: int = 0
    """Meetings whose weights it still shows: looked up, moved in among data, or taken through a matrix that is no activation."""


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

    def met(
        self, past: Past, meeting: Meeting, data: list[tuple[Tensor, Past]], keeps: bool, made: list[Tensor]
    ) -> Past:
        """The past of what a meeting made of `data`; `keeps` where it moves elements or works on each alone."""
        if not keeps:
            self.gone_on |= past.decoders
        lookup = meeting.kind == "lookup"
        shows = keeps or lookup or writes_into(meeting.operator)
        matrix = not shows and any(is_matrix(each) for each, _ in data)
        decoders, carried = past.decoders, past.carried if matrix or (shows and not lookup) else 0
        if meeting.kind == "product":
            decoders |= 1 << len(self.candidates)
            self.candidates.append(meeting)
        small = all(
            is_flat(each) or each.numel() < most
            for each, _ in data
            for most in [max(map(Tensor.numel, made))]
        )
        if (
            lookup
            or (shows and (small or any(map(is_matrix, made))))
            or (matrix and meeting.kind == "product")
        ):
            carried |= 1 << len(self.carriers)
            self.carriers.append(meeting)
        return Past(True, decoders, carried)

    def mixed(self, name: str, data: list[tuple[Tensor, Past]], past: Past, elementwise: bool) -> Past:
        """The past of what data makes with data and constants."""
        if len(data) < 2:
            return past
        multiplies = name in MULTIPLIES or "attention" in name
        for place, (tensor, own) in enumerate(data):
            others = [each for number, (each, _) in enumerate(data) if number != place]
            spread = elementwise and any(each.shape[-2:] != tensor.shape[-2:] for each in others)
            if own.carried and (multiplies or spread) and is_matrix(tensor):
                self.gone_on |= past.decoders
                for number, meeting in enumerate(self.carriers):
                    meeting.applied += own.carried >> number & 1
        return past._replace(carried=0) if multiplies else past

    def finish(self, output: Past) -> None:
        """Say of every product whether it is an end."""
        for number, meeting in enumerate(self.candidates):
            meeting.ends = bool((output.decoders & ~self.gone_on) >> number & 1)


def writes_into(operator: str) -> bool:
    """Whether an operator lays some numbers in among others."""
    return "scatter" in operator or operator.startswith(("index_", "put"))


def is_flat(tensor: Tensor) -> bool:
    """Whether all its numbers are the same one."""
    return not tensor.is_meta and (tensor.numel() < 2 or bool((tensor == tensor.reshape(-1)[0]).all()))


def is_matrix(tensor: Tensor) -> bool:
    """Whether it has rows that are no multiples of one another; by shape alone where there are no numbers."""
    shape = [size for size in tensor.shape if size > 1]
    columns = tensor.dim() > 2 and tensor.shape[-1] == 1  # a convolution's, of one place
    if len(shape) < 2 or tensor.dtype == torch.bool or (min(tensor.shape[-2:]) == 1 and not columns):
        return False
    if tensor.is_meta:
        return True
    rows = (
        (torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor)
        .reshape(-1, shape[-1])
        .double()
    )
    norms = rows.norm(dim=-1)
    rows, norms = rows[norms > 0], norms[norms > 0]
    if len(rows) < 2:
        return False
    return bool(((rows @ rows[0]).abs() < (1 - 1e-9) * norms * norms[0]).any())
