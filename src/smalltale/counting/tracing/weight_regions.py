"""Maps a tensor that was computed from weights alone back to the weight elements it was computed from.

Input: tensors as the tracer sees them. Output: masks over the storages of weights.
A view of a weight needs no index: its storage, offset and strides identify its elements. A tensor computed from weights
(a cast, a cat, W + BA) is Derived: it keeps its operands, and a mask over it is propagated back to them.
A mask is a bool tensor over a storage, or ALL. Masks are computed only when an operator uses the weight.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

ALL = None
Mask = Tensor | None
"""A bool tensor, or ALL (None)."""


class Region(NamedTuple):
    """Where a tensor's elements are in its storage."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @staticmethod
    def of(tensor: Tensor) -> Region:
        return Region(tuple(tensor.size()), tuple(tensor.stride()), int(tensor.storage_offset()))

    @staticmethod
    def full(elements: int) -> Region:
        """All elements of a storage."""
        return Region((elements,), (1,), 0)

    def without_repeats(self) -> Region:
        """The same elements without axes of size 1 or stride 0."""
        axes = [(size, stride) for size, stride in zip(*self[:2], strict=True) if size != 1 and stride != 0]
        return Region(tuple(size for size, _ in axes), tuple(stride for _, stride in axes), self.offset)

    def select(self, axis: int, index: int) -> Region:
        """The part at one index of an axis, as torch.select gives it."""
        axis %= len(self.size)
        return Region(
            self.size[:axis] + self.size[axis + 1 :],
            self.stride[:axis] + self.stride[axis + 1 :],
            self.offset + index * self.stride[axis],
        )

    def numel(self) -> int:
        return prod(self.size)

    def covers(self, elements: int) -> bool:
        """Whether it is all of a storage of `elements` elements, in any order."""
        region = self.without_repeats()
        expected = 1
        for stride, size in sorted(zip(region.stride, region.size, strict=True)):
            if stride != expected:
                return False
            expected *= size
        return self.offset == 0 and expected == elements and self.numel() > 0

    def to_storage_mask(self, mask: Mask, elements: int) -> Mask:
        """Mask over this tensor's own shape -> mask over its storage."""
        if mask is ALL and self.covers(elements):
            return ALL
        storage_mask = torch.zeros(elements, dtype=torch.bool)
        if self.numel() == 0:
            return storage_mask
        if mask is not ALL:
            mask = mask.expand(self.size)
            for axis, (size, stride) in enumerate(zip(self.size, self.stride, strict=True)):
                if size > 1 and stride == 0:
                    mask = mask.any(axis, keepdim=True)
            region = Region(tuple(mask.shape), self.stride, self.offset)
            storage_mask.as_strided(*region)[mask] = True
        else:
            storage_mask.as_strided(*self.without_repeats()).fill_(True)
        return storage_mask

    def from_storage_mask(self, mask: Mask) -> Mask:
        """Mask over the storage -> mask over this tensor's own shape."""
        return ALL if mask is ALL else mask.as_strided(self.size, self.stride, self.offset)


@dataclass(frozen=True, eq=False)
class Weight:
    """A storage whose numbers exist before the forward pass begins."""

    elements: int
    label: str
    """The name of a counted tensor in it; else "frozen", "buffer" or that it is unregistered."""
    element_bytes: int = 4
    """Size of one element; a complex number is two elements."""


class Operand(NamedTuple):
    """A tensor passed to an operator: the source of its storage, and which part of the storage it is."""

    source: Source
    region: Region
    exact: bool = True
    """Whether the region has the tensor's axes; false for a view as another dtype."""

    @staticmethod
    def of(source: Source, tensor: Tensor) -> Operand:
        region, element_bytes = Region.of(tensor), tensor.element_size()
        if element_bytes == source.element_bytes:
            return Operand(source, region)
        if element_bytes % source.element_bytes:
            return Operand(source, Region.full(source.elements), exact=False)
        ratio = element_bytes // source.element_bytes
        strides = tuple(ratio * stride for stride in region.stride)
        region = Region((*region.size, ratio), (*strides, 1), region.offset * ratio)
        return Operand(source, region, exact=False)


BackwardRule = Callable[[Mask], list[Mask]]
"""From a mask over the result to one mask over each operand's shape."""


@dataclass(eq=False)
class Derived:
    """A storage computed from weights alone."""

    number: int
    """Increases with time, so operands have smaller numbers."""
    elements: int
    region: Region
    """Where the operator's result is in the storage."""
    operands: list[Operand]
    rule: BackwardRule
    element_bytes: int
    previous: Source | None = None
    """The source of the storage before the operator wrote into a part of it."""
    all_weights: list[tuple[Weight, Mask]] | None = field(default=None, repr=False)
    """Cache of the weights behind the full storage."""

    def propagate(self, mask: Mask) -> Iterator[tuple[Source, Mask]]:
        """Mask over the storage -> masks over the operands' storages."""
        if self.previous is not None:
            yield self.previous, mask if self.previous.elements == self.elements else ALL
        result_mask = self.region.from_storage_mask(mask)
        if result_mask is not ALL and not result_mask.any():
            return
        for operand, operand_mask in zip(self.operands, self.rule(result_mask), strict=True):
            exact_mask = operand_mask if operand.exact else ALL
            yield operand.source, operand.region.to_storage_mask(exact_mask, operand.source.elements)

    def cache_weights(self) -> None:
        """Fill `all_weights`; called when an operator with data uses the storage, as more may follow."""
        if self.all_weights is None:
            self.all_weights = weights_behind([Operand(self, Region.full(self.elements))])


Source = Weight | Derived


def union(first: Mask, second: Mask) -> Mask:
    return ALL if first is ALL or second is ALL else first | second


def weights_behind(operands: list[Operand]) -> list[tuple[Weight, Mask]]:
    """Every weight that an operand was computed from, once, with the mask of its elements."""
    masks: dict[Weight, Mask] = {}
    pending: dict[int, tuple[Derived, Mask]] = {}
    newest_first: list[int] = []

    def add(source: Source, mask: Mask) -> None:
        if isinstance(source, Weight):
            masks[source] = union(masks[source], mask) if source in masks else mask
        elif mask is ALL and source.all_weights is not None:
            for weight, weight_mask in source.all_weights:
                add(weight, weight_mask)
        elif source.number in pending:
            pending[source.number] = (source, union(pending[source.number][1], mask))
        else:
            heapq.heappush(newest_first, -source.number)
            pending[source.number] = (source, mask)

    for operand in operands:
        add(operand.source, operand.region.to_storage_mask(ALL, operand.source.elements))
    while newest_first:
        derived, mask = pending.pop(-heapq.heappop(newest_first))
        for source, source_mask in derived.propagate(mask):
            add(source, source_mask)
    return list(masks.items())
