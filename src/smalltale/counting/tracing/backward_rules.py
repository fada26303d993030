"""Rules that map a mask over an operator's result to masks over its operands.

Input: an operator call on tensors that are computed from weights or constant. Output: a BackwardRule.
An operator without a rule of its own maps any mask to all of every operand, which can only increase a count.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from smalltale.counting.tracing.weight_regions import ALL, BackwardRule, Mask

PLACEHOLDER = object()
"""Replaces the operand in the arguments of a call that is repeated later."""
MOVES = {
    "repeat", "roll", "flip", "index_select", "index", "gather", "embedding", "tril", "triu", "constant_pad_nd",
    "repeat_interleave", "_reshape_copy", "unfold_copy", "diag_embed", "take", "take_along_dim", "expand_copy",
    "slice_scatter", "permute_copy", "rot90", "pixel_shuffle", "diagonal_copy", "im2col", "unsafe_chunk",
}  # fmt: skip
"""Operators that move one tensor's elements, possibly among zeros, without mixing them."""
COPIES = {
    "clone", "_to_copy", "copy_", "copy", "lift_fresh_copy", "contiguous", "to", "detach_copy", "alias_copy",
}  # fmt: skip
JOINS = {"cat", "concat", "stack"}
REDUCTIONS = {
    "sum", "mean", "amax", "amin", "linalg_vector_norm", "norm", "prod", "logsumexp", "var", "std", "argmax", "max", "min",
}  # fmt: skip
ALONG_AXIS = {"_softmax", "softmax", "_log_softmax", "cumsum", "cumprod", "_weight_norm_interface"}
"""Operators whose every result depends on one axis of the operand."""


def backward_rule(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], operands: list[Tensor], out: Tensor
) -> BackwardRule:
    """The rule for `out`, over `operands` in order (the tensors computed from weights)."""
    name = func._schema.name.split("::")[-1]
    shapes = [tuple(operand.shape) for operand in operands]
    if name in JOINS:
        return join_rule(args, kwargs, operands, stacked=name == "stack")
    if name in {"mm", "addmm", "bmm", "baddbmm"} and len(args) >= 2:
        return product_rule(args, operands)
    if name in MOVES and len(operands) == 1:
        return move_rule(func, args, kwargs, operands[0])
    if name in REDUCTIONS and len(operands) == 1:
        return reduction_rule(args, kwargs, shapes[0], tuple(out.shape))
    if name in ALONG_AXIS and tuple(out.shape) == shapes[0]:
        argument = 2 if name == "_weight_norm_interface" else 1
        dim = kwargs.get("dim", args[argument] if len(args) > argument else 0)
        return axis_rule(dim, shapes, all_but_dim=name == "_weight_norm_interface")
    is_pointwise = torch.Tag.pointwise in func.tags or name.rstrip("_") in {
        "where",
        "masked_fill",
        "add",
        "mul",
    }
    if is_pointwise or name in COPIES:
        return lambda mask: [reduce_to_shape(mask, shape) for shape in shapes]
    return lambda mask: [ALL for _ in shapes]


def reduce_to_shape(mask: Mask, shape: tuple[int, ...]) -> Mask:
    """The mask of an operand of this shape that was broadcast to the result."""
    if mask is ALL:
        return ALL
    while mask.dim() > len(shape):
        mask = mask.any(0)
    for axis in range(-1, -mask.dim() - 1, -1):
        if shape[axis] == 1 and mask.shape[axis] != 1:
            mask = mask.any(axis, keepdim=True)
    return mask


def join_rule(args: Any, kwargs: Any, operands: list[Tensor], stacked: bool) -> BackwardRule:
    """cat or stack: each operand takes its own part of the mask."""
    parts: list[Tensor] = list(args[0])
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    operand_ids = {id(operand) for operand in operands}

    def propagate(mask: Mask) -> list[Mask]:
        if mask is ALL:
            return [ALL for _ in operands]
        masks_by_id: dict[int, list[Tensor]] = {}
        start = 0
        for part in parts:
            width = 1 if stacked else (part.shape[dim] if part.dim() else 1)
            if id(part) in operand_ids:
                part_mask = mask.select(dim, start) if stacked else mask.narrow(dim, start, width)
                masks_by_id.setdefault(id(part), []).append(part_mask)
            start += 0 if part.numel() == 0 and part.dim() == 1 and not stacked else width
        # a tensor passed twice takes its parts in order
        return [masks.pop(0) if (masks := masks_by_id.get(id(operand))) else ALL for operand in operands]

    return propagate


def product_rule(args: tuple[Any, ...], operands: list[Tensor]) -> BackwardRule:
    """(bias +) A @ B: a result needs its row of A and its column of B."""
    left, right = args[-2:] if isinstance(args[-1], Tensor) else args[:2]
    # The rule keeps shapes only, as it outlives the tensors.
    summed_axes = [-1 if operand is left else -2 if operand is right else None for operand in operands]
    shapes = [tuple(operand.shape) for operand in operands]

    def propagate(mask: Mask) -> list[Mask]:
        if mask is ALL:
            return [ALL for _ in shapes]
        return [
            reduce_to_shape(mask, shape) if axis is None else mask.any(axis, keepdim=True).expand(shape)
            for axis, shape in zip(summed_axes, shapes, strict=True)
        ]

    return propagate


def move_rule(func: Any, args: Any, kwargs: Any, operand: Tensor) -> BackwardRule:
    """Moves indices as the operator moves the operand's elements, when a mask is needed."""
    shape = operand.shape
    call = tree_map(lambda leaf: PLACEHOLDER if leaf is operand else leaf, (args, kwargs))

    @cache
    def moved_indices() -> Tensor | None:
        """For each element of the result 1 + its index in `operand`, 0 for padding; None if the operator rejects indices."""
        indices = torch.arange(1, 1 + shape.numel()).view(shape)
        index_args, index_kwargs = tree_map(lambda leaf: indices if leaf is PLACEHOLDER else leaf, call)
        try:
            moved = func(*index_args, **index_kwargs)
        except (RuntimeError, TypeError, NotImplementedError):
            return None
        return moved if isinstance(moved, Tensor) and not moved.is_meta else None

    def propagate(mask: Mask) -> list[Mask]:
        moved = moved_indices()
        if moved is None:
            return [ALL]
        operand_mask = torch.zeros(1 + shape.numel(), dtype=torch.bool)
        operand_mask[(moved if mask is ALL else moved[mask]).reshape(-1)] = True
        return [operand_mask[1:].view(shape)]

    return propagate


def reduction_rule(args: Any, kwargs: Any, shape: tuple[int, ...], out: tuple[int, ...]) -> BackwardRule:
    """A reduction over some axes, with or without keepdim."""
    keepdim = len(out) == len(shape)
    dims = [arg for arg in (*args[1:], *kwargs.values()) if isinstance(arg, list | tuple)]
    axes = {axis % len(shape) for axis in dims[0]} if dims and shape else set()
    if not axes and not keepdim and len(args) > 1 and isinstance(args[1], int) and shape:
        axes = {args[1] % len(shape)}

    def propagate(mask: Mask) -> list[Mask]:
        if mask is ALL or not shape or (not keepdim and len(shape) - len(axes) != len(out)):
            return [ALL]
        if not keepdim:
            for axis in sorted(axes):
                mask = mask.unsqueeze(axis)
        return [mask.expand(shape)]

    return propagate


def axis_rule(dim: Any, shapes: list[tuple[int, ...]], all_but_dim: bool) -> BackwardRule:
    """Results depend on the operand along `dim`; with all_but_dim (weight norm) along all other axes."""

    def propagate(mask: Mask) -> list[Mask]:
        if mask is ALL or not isinstance(dim, int):
            return [ALL for _ in shapes]
        spread = mask
        for axis in range(mask.dim()):
            if (axis == dim % mask.dim()) != all_but_dim:
                spread = spread.any(axis, keepdim=True)
        return [reduce_to_shape(spread.expand(mask.shape), shape) for shape in shapes]

    return propagate
