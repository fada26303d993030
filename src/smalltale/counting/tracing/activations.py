"""The activations that met a weight in one operator, told apart by their values.

In: an operator's arguments, and which of them is data. Out: Vectors: a fingerprint of each activation.
A weight that meets k different activations of one position in one product is used k times, as if the product were made
k times: two depths stacked in a batch, or one matrix for all heads. An activation repeated unchanged (keys of GQA
before their projection, one token sent to two experts) is one.
Beware: on the meta device there are no values; each activation is taken as different then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from smalltale.counting.tracing.weight_regions import Operand, Source


@dataclass(frozen=True, eq=False)
class Vectors:
    """Activations (entries, rows): those of an entry met the same part of `matrix`, where there are several entries."""

    marks: Tensor
    """(entries, rows) float64: equal for equal activations, 0 for one that is all zeros."""
    by_shape: Tensor
    """The same, every activation taken as different but where one is repeated by a stride of 0."""
    measured: bool
    """Whether `marks` are of values."""
    matrix: Operand | None = None
    """The weights of a batched product, one matrix an entry."""


def vectors_of(
    func: Any, args: tuple[Any, ...], is_data: Callable[[Tensor], bool], operands: list[tuple[Tensor, Source]]
) -> Vectors | None:
    """The activations of an operator of known form, None for another.

    operands: tensor and source of those that weights stand behind.
    """
    name = func._schema.name.split("::")[-1]
    if name == "_grouped_mm" and is_data(args[0]) and args[0].dim() == 2 and args[1].dim() == 3:
        return grouped(args[0], args[1], args[2], operands)
    found = laid_out(name, args, is_data)
    if found is None and torch.Tag.pointwise in func.tags:
        found = spread_out([each for each in args if isinstance(each, Tensor)], is_data)
    if found is None:
        return None
    if found.is_complex():
        found = torch.view_as_real(found.resolve_conj()).flatten(-2)
    shared = bool(found.stride(0) == 0 and found.shape[0] > 1)
    entries, rows = found.shape[:2]
    counted = torch.arange(1, 1 + (rows if shared else entries * rows), dtype=torch.float64)
    by_shape = counted.expand(entries, rows) if shared else counted.view(entries, rows)
    matrix = None
    if name in {"bmm", "baddbmm"} and entries > 1:
        matrix = next(
            (Operand.of(source, each) for each, source in operands if any(each is a for a in args[-2:])),
            None,
        )
    if found.is_meta:
        return Vectors(by_shape, by_shape, False, matrix)
    return Vectors(fingerprints(found), by_shape, True, matrix)


def grouped(
    data: Tensor, matrices: Tensor, ends: Tensor, operands: list[tuple[Tensor, Source]]
) -> Vectors | None:
    """Rows up to ends[n] meet matrix n."""
    source = next((each for tensor, each in operands if tensor is matrices), None)
    if ends.is_meta or source is None:
        return None
    group = torch.searchsorted(ends.cpu(), torch.arange(len(data)), right=True)
    own = group == torch.arange(len(matrices))[:, None]
    by_shape = own * torch.arange(1, 1 + len(data), dtype=torch.float64)
    matrix = Operand.of(source, matrices)
    if data.is_meta:
        return Vectors(by_shape, by_shape, False, matrix)
    return Vectors(own * fingerprints(data), by_shape, True, matrix)


def fingerprints(vectors: Tensor) -> Tensor:
    """(entries, rows, K) -> (entries, rows): a random combination of each vector, 0 where it is all zeros."""
    generator = torch.Generator().manual_seed(20_25)
    direction = torch.randn(vectors.shape[-1], generator=generator, dtype=torch.float64)
    return vectors.double().cpu().nan_to_num() @ direction


def laid_out(name: str, args: tuple[Any, ...], is_data: Callable[[Tensor], bool]) -> Tensor | None:
    """The data of a product or convolution as (entries, rows, K), each of the last axis an activation."""
    data: Tensor | None = None
    if name in {"mm", "addmm", "bmm", "baddbmm"}:
        left, right = args[-2:]
        if is_data(left) != is_data(right):
            data = left if is_data(left) else right.transpose(-1, -2)
            data = data if data.dim() == 3 else data[None]
    elif name in {"linear", "_scaled_mm", "mkldnn_rnn_layer"} and is_data(args[0]):
        data = args[0].reshape(1, -1, args[0].shape[-1])
    elif name == "convolution" and is_data(args[0]) and not is_data(args[1]):
        data = args[0].movedim(1, -1).reshape(1, -1, args[0].shape[1])
    return data


def spread_out(tensors: list[Tensor], is_data: Callable[[Tensor], bool]) -> Tensor | None:
    """Data broadcast against a weight that is itself broadcast: a product written element by element."""
    data = [each for each in tensors if is_data(each)]
    if len(tensors) != 2 or len(data) != 1:
        return None
    weight = tensors[0] if tensors[1] is data[0] else tensors[1]
    rank = max(data[0].dim(), weight.dim())
    size = (1,) * (rank - data[0].dim()) + tuple(data[0].shape)
    other = (1,) * (rank - weight.dim()) + tuple(weight.shape)
    rows = [axis for axis in range(rank) if size[axis] > 1 and other[axis] == 1]
    if not rows or not any(a == 1 and b > 1 for a, b in zip(size, other, strict=True)):
        return None
    kept = [axis for axis in range(rank) if axis not in rows]
    number = torch.Size(size[axis] for axis in rows).numel()
    return data[0].reshape(size).permute(*rows, *kept).reshape(1, number, -1)


def indices_of(name: str, args: tuple[Any, ...]) -> Vectors | None:
    """The places a look-up reads, as activations: one entry, a row a place."""
    places = args[1] if len(args) > 1 else None
    if name == "index_select":
        places = args[2]
    elif name == "index" and isinstance(places, list | tuple):
        tensors = [each for each in places if isinstance(each, Tensor)]
        places = tensors[0] if len(tensors) == 1 else None
    elif name not in {"embedding", "_embedding_bag", "_embedding_bag_forward_only"}:
        return None
    if not isinstance(places, Tensor) or places.dtype == torch.bool:
        return None
    by_shape = torch.arange(1, 1 + places.numel(), dtype=torch.float64)[None]
    if places.is_meta:
        return Vectors(by_shape, by_shape, False)
    return Vectors(1 + places.detach().cpu().reshape(1, -1).double(), by_shape, True)
