"""The activations that meet a weight in one operator, distinguished by fingerprints of their values.

Input: an operator's arguments, and which of them are data. Output: Activations.
A weight that meets k different activations of one position in one product is used k times, as if there were k products:
two iterations of a loop stacked in a batch, or one matrix for all heads. An activation repeated unchanged (keys of GQA before their
projection, one token sent to two experts) counts once.
Note: on the meta device there are no values, so each activation counts as different.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from smalltale.counting.tracing.weight_regions import Operand, Source


@dataclass(frozen=True, eq=False)
class Activations:
    """Activations (entries, rows): those of an entry meet the same matrix of `matrices`, if that is set."""

    shape_ids: Tensor
    """(entries, rows): different for all activations except those repeated by a stride of 0."""
    fingerprints: Tensor | None
    """(entries, rows) float64: equal for equal activations, 0 for an activation of zeros; None on the meta device."""
    matrices: Operand | None = None
    """The weights of a batched product, one matrix per entry."""


def operator_activations(
    func: Any, args: tuple[Any, ...], is_data: Callable[[Tensor], bool], operands: list[tuple[Tensor, Source]]
) -> Activations | None:
    """The activations of an operator of known form, None for other operators.

    operands: the tensors computed from weights, with their sources.
    """
    name = func._schema.name.split("::")[-1]
    if name == "_grouped_mm" and is_data(args[0]) and args[0].dim() == 2 and args[1].dim() == 3:
        return grouped_activations(args[0], args[1], args[2], operands)
    vectors = product_activations(name, args, is_data)
    if vectors is None and torch.Tag.pointwise in func.tags:
        vectors = broadcast_activations([arg for arg in args if isinstance(arg, Tensor)], is_data)
    if vectors is None:
        return None
    if vectors.is_complex():
        vectors = torch.view_as_real(vectors.resolve_conj()).flatten(-2)
    shared = bool(vectors.stride(0) == 0 and vectors.shape[0] > 1)
    entries, rows = vectors.shape[:2]
    ids = torch.arange(1, 1 + (rows if shared else entries * rows), dtype=torch.float64)
    shape_ids = ids.expand(entries, rows) if shared else ids.view(entries, rows)
    matrices, added = None, args[0] if name == "baddbmm" else None
    if name in {"bmm", "baddbmm"} and entries > 1:
        matrices = next(
            (Operand.of(source, tensor) for tensor, source in operands if tensor is not added), None
        )
    return Activations(shape_ids, fingerprint(vectors), matrices)


def grouped_activations(
    data: Tensor, matrices: Tensor, ends: Tensor, operands: list[tuple[Tensor, Source]]
) -> Activations | None:
    """Grouped product: rows ends[n - 1] to ends[n] meet matrix n."""
    source = next((source for tensor, source in operands if tensor is matrices), None)
    if ends.is_meta or source is None:
        return None
    group_by_row = torch.searchsorted(ends.cpu(), torch.arange(len(data)), right=True)
    in_group = group_by_row == torch.arange(len(matrices))[:, None]
    shape_ids = in_group * torch.arange(1, 1 + len(data), dtype=torch.float64)
    fingerprints = fingerprint(data)
    masked = None if fingerprints is None else in_group * fingerprints
    return Activations(shape_ids, masked, Operand.of(source, matrices))


def fingerprint(vectors: Tensor) -> Tensor | None:
    """(entries, rows, K) -> (entries, rows): a fixed random combination of each vector, 0 for a vector of zeros."""
    if vectors.is_meta:
        return None
    generator = torch.Generator().manual_seed(20_25)
    direction = torch.randn(vectors.shape[-1], generator=generator, dtype=torch.float64)
    return vectors.double().cpu().nan_to_num() @ direction


def product_activations(name: str, args: tuple[Any, ...], is_data: Callable[[Tensor], bool]) -> Tensor | None:
    """The data of a product or convolution as (entries, rows, K), an activation along the last axis."""
    if name in {"mm", "addmm", "bmm", "baddbmm"}:
        left, right = args[-2:]
        if is_data(left) == is_data(right):
            return None
        data: Tensor = left if is_data(left) else right.transpose(-1, -2)
        return data if data.dim() == 3 else data[None]
    if name in {"linear", "_scaled_mm", "mkldnn_rnn_layer"} and is_data(args[0]):
        return args[0].reshape(1, -1, args[0].shape[-1])  # type: ignore[no-any-return]
    if name == "convolution" and is_data(args[0]) and not is_data(args[1]):
        return args[0].movedim(1, -1).reshape(1, -1, args[0].shape[1])  # type: ignore[no-any-return]
    return None


def broadcast_activations(tensors: list[Tensor], is_data: Callable[[Tensor], bool]) -> Tensor | None:
    """Data broadcast against a weight that is broadcast too: a product written element by element."""
    data = [tensor for tensor in tensors if is_data(tensor)]
    if len(tensors) != 2 or len(data) != 1:
        return None
    weight = tensors[0] if tensors[1] is data[0] else tensors[1]
    rank = max(data[0].dim(), weight.dim())
    data_size = (1,) * (rank - data[0].dim()) + tuple(data[0].shape)
    weight_size = (1,) * (rank - weight.dim()) + tuple(weight.shape)
    row_axes = [axis for axis in range(rank) if data_size[axis] > 1 and weight_size[axis] == 1]
    if not row_axes or not any(a == 1 and b > 1 for a, b in zip(data_size, weight_size, strict=True)):
        return None
    vector_axes = [axis for axis in range(rank) if axis not in row_axes]
    rows = torch.Size(data_size[axis] for axis in row_axes).numel()
    return data[0].reshape(data_size).permute(*row_axes, *vector_axes).reshape(1, rows, -1)


def lookup_activations(name: str, args: tuple[Any, ...]) -> Activations | None:
    """The indices that a look-up reads, as activations: one entry with a row per index."""
    indices = args[1] if len(args) > 1 else None
    if name == "index_select":
        indices = args[2]
    elif name == "index" and isinstance(indices, list | tuple):
        tensors = [index for index in indices if isinstance(index, Tensor)]
        indices = tensors[0] if len(tensors) == 1 else None
    elif name not in {"embedding", "_embedding_bag", "_embedding_bag_forward_only"}:
        return None
    if not isinstance(indices, Tensor) or indices.dtype == torch.bool:
        return None
    shape_ids = torch.arange(1, 1 + indices.numel(), dtype=torch.float64)[None]
    fingerprints = None if indices.is_meta else 1 + indices.detach().cpu().reshape(1, -1).double()
    return Activations(shape_ids, fingerprints)
