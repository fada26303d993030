"""Which elements of which weight stand behind a tensor that was made from weights alone.

In: tensors as the tracer meets them. Out: masks over the storages of weights.
A view of a weight needs no index: its storage, offset and strides name its elements. A tensor computed from weights
(a cast, a cat, W + BA) is Derived: it keeps its operands, and a mask over it is carried back to them.
Beware: a mask is a bool tensor over a storage, or ALL; both are made only when an operator uses the weight.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

ALL = None
Mask = Tensor | None
"""A bool tensor, or ALL (None)."""


class Region(NamedTuple):
    """Where a tensor's elements lie in its storage."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @staticmethod
    def of(tensor: Tensor) -> Region:
        return Region(tuple(tensor.size()), tuple(tensor.stride()), int(tensor.storage_offset()))

    def proper(self) -> Region:
        """The same elements without axes that repeat them."""
        kept = [(n, s) for n, s in zip(self.size, self.stride, strict=True) if n != 1 and s != 0]
        return Region(tuple(n for n, _ in kept), tuple(s for _, s in kept), self.offset)

    def at(self, axis: int, place: int) -> Region:
        """The part with one place along an axis."""
        axis %= len(self.size)
        return Region(
            self.size[:axis] + self.size[axis + 1 :],
            self.stride[:axis] + self.stride[axis + 1 :],
            self.offset + place * self.stride[axis],
        )

    def numel(self) -> int:
        product = 1
        for each in self.size:
            product *= each
        return product

    def fills(self, elements: int) -> bool:
        """Whether it is the whole of a storage of so many elements, in any order."""
        proper = self.proper()
        expected = 1
        for stride, size in sorted(zip(proper.stride, proper.size, strict=True)):
            if stride != expected:
                return False
            expected *= size
        return self.offset == 0 and expected == elements and self.numel() > 0

    def over_storage(self, mask: Mask, elements: int) -> Mask:
        """mask over this tensor's own shape -> mask over its storage."""
        if mask is ALL and self.fills(elements):
            return ALL
        found = torch.zeros(elements, dtype=torch.bool)
        if self.numel() == 0:
            return found
        if mask is not ALL:
            mask = mask.expand(self.size)
            for axis, (size, stride) in enumerate(zip(self.size, self.stride, strict=True)):
                if size > 1 and stride == 0:
                    mask = mask.any(axis, keepdim=True)
            region = Region(tuple(mask.shape), self.stride, self.offset)
            found.as_strided(*region)[mask] = True
        else:
            found.as_strided(*self.proper()).fill_(True)
        return found

    def from_storage(self, mask: Mask) -> Mask:
        """mask over the storage -> mask over this tensor's own shape."""
        return ALL if mask is ALL else mask.as_strided(self.size, self.stride, self.offset)


@dataclass(eq=False)
class Weight:
    """A storage that held numbers before the forward pass began."""

    elements: int
    label: str
    item_bytes: int = 4
    """Of one element; a complex number is two."""


class Operand(NamedTuple):
    """A tensor that went into an operator: what stands behind its storage, and which part of it."""

    source: Source
    region: Region
    exact: bool = True
    """Whether the region has the tensor's own axes; a view as another type has not."""

    @staticmethod
    def of(source: Source, tensor: Tensor) -> Operand:
        own, item_bytes = Region.of(tensor), tensor.element_size()
        if item_bytes == source.item_bytes:
            return Operand(source, own)
        if item_bytes % source.item_bytes:
            return Operand(source, Region((source.elements,), (1,), 0), exact=False)
        times = item_bytes // source.item_bytes
        strides = tuple(times * each for each in own.stride)
        return Operand(source, Region((*own.size, times), (*strides, 1), own.offset * times), exact=False)


Rule = Callable[[Mask], list[Mask]]
"""From a mask over the result to a mask over each operand's shape."""


@dataclass(eq=False)
class Derived:
    """A storage computed from weights alone."""

    number: int
    """Grows with time, so operands have smaller numbers."""
    elements: int
    region: Region
    """Where the operator's result lies in it."""
    operands: list[Operand]
    rule: Rule
    item_bytes: int
    before: Source | None = None
    """What the storage was when the operator wrote into a part of it."""
    whole: list[tuple[Weight, Mask]] | None = field(default=None, repr=False)
    """Remembered answer to "all of it"."""

    def back(self, mask: Mask) -> Iterator[tuple[Source, Mask]]:
        """mask over the storage -> masks over the operands' storages."""
        if self.before is not None:
            yield self.before, mask if self.before.elements == self.elements else ALL
        own = self.region.from_storage(mask)
        if own is not ALL and not own.any():
            return
        for operand, each in zip(self.operands, self.rule(own), strict=True):
            part = each if operand.exact else ALL
            yield operand.source, operand.region.over_storage(part, operand.source.elements)


Source = Weight | Derived


def union(one: Mask, other: Mask) -> Mask:
    return ALL if one is ALL or other is ALL else one | other


def weights_behind(operands: list[Operand]) -> list[tuple[Weight, Mask]]:
    """Every weight element that some operand was made from, each once."""
    found: dict[int, tuple[Weight, Mask]] = {}
    waiting: dict[int, tuple[Derived, Mask]] = {}
    order: list[int] = []

    def add(source: Source, mask: Mask) -> None:
        if isinstance(source, Weight):
            old = found.get(id(source))
            found[id(source)] = (source, union(old[1], mask) if old else mask)
            return
        if mask is ALL and source.whole is not None:
            for weight, part in source.whole:
                add(weight, part)
            return
        earlier = waiting.get(source.number)
        if earlier is None:
            heapq.heappush(order, -source.number)
        waiting[source.number] = (source, union(earlier[1], mask) if earlier else mask)

    for operand in operands:
        add(operand.source, operand.region.over_storage(ALL, operand.source.elements))
    while order:
        source, mask = waiting.pop(-heapq.heappop(order))
        for behind, part in source.back(mask):
            add(behind, part)
    return list(found.values())


def remember(derived: Derived) -> None:
    """Keep the answer for the whole of `derived`; called when a second operator uses it."""
    if derived.whole is None:
        whole = Operand(derived, Region((derived.elements,), (1,), 0))
        derived.whole = weights_behind([whole])
