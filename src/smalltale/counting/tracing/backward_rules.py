"""How a mask over an operator's result goes back to the weights it was computed from.

In: an operator call whose tensors were all made from weights or constants. Out: a Rule (model/marks.py).
Beware: an operator without a rule of its own answers "all of every operand", which can only make a count larger.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from smalltale.counting.tracing.weight_regions import ALL, Mask, Rule

HERE = object()
"""Stands for the operand in a call kept for later."""
MOVES = {
    "repeat", "roll", "flip", "index_select", "index", "gather", "embedding", "tril", "triu", "constant_pad_nd",
    "repeat_interleave", "_reshape_copy", "unfold_copy", "diag_embed", "take", "take_along_dim", "expand_copy",
    "slice_scatter", "permute_copy", "rot90", "pixel_shuffle", "diagonal_copy", "im2col", "unsafe_chunk",
}  # fmt: skip
"""Operators that move one tensor's elements, perhaps among zeros, without mixing them."""
COPIES = {
    "clone", "_to_copy", "copy_", "copy", "lift_fresh_copy", "contiguous", "to", "detach_copy", "alias_copy",
}  # fmt: skip
JOINS = {"cat", "concat", "stack"}
REDUCTIONS = {
    "sum", "mean", "amax", "amin", "linalg_vector_norm", "norm", "prod", "logsumexp", "var", "std", "argmax", "max", "min",
}  # fmt: skip
ALONG = {"_softmax", "softmax", "_log_softmax", "cumsum", "cumprod", "_weight_norm_interface"}
"""Operators whose every result depends on one axis of its operand."""


def rule_for(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], operands: list[Tensor], out: Tensor
) -> Rule:
    """The rule for `out`, over `operands` in order (the tensors that weights stand behind)."""
    name = func._schema.name.split("::")[-1]
    shapes = [tuple(each.shape) for each in operands]
    if name in JOINS:
        return joined(args, kwargs, operands, stacked=name == "stack")
    if name in {"mm", "addmm", "bmm", "baddbmm"} and len(args) >= 2:
        return product(args, operands)
    if name in MOVES and len(operands) == 1:
        ask = moved_places(func, args, kwargs, operands[0])
        return lambda mask: [places_mask(ask(), mask, shapes[0])]
    if name in REDUCTIONS and len(operands) == 1:
        return reduced(args, kwargs, shapes[0], tuple(out.shape))
    if name in ALONG and tuple(out.shape) == shapes[0]:
        place = 2 if name == "_weight_norm_interface" else 1
        dim = kwargs.get("dim", args[place] if len(args) > place else 0)
        return along(dim, shapes, others=name == "_weight_norm_interface")
    if (
        torch.Tag.pointwise in func.tags
        or name in COPIES
        or name.rstrip("_") in {"where", "masked_fill", "add", "mul"}
    ):
        return lambda mask: [spread(mask, shape) for shape in shapes]
    return lambda mask: [ALL for _ in shapes]


def spread(mask: Mask, shape: tuple[int, ...]) -> Mask:
    """The mask of an operand that was broadcast to the result."""
    if mask is ALL:
        return ALL
    while mask.dim() > len(shape):
        mask = mask.any(0)
    for axis in range(-1, -mask.dim() - 1, -1):
        if shape[axis] == 1 and mask.shape[axis] != 1:
            mask = mask.any(axis, keepdim=True)
    return mask


def joined(args: tuple[Any, ...], kwargs: dict[str, Any], operands: list[Tensor], stacked: bool) -> Rule:
    parts: list[Tensor] = list(args[0])
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    wanted = {id(each) for each in operands}

    def back(mask: Mask) -> list[Mask]:
        if mask is ALL:
            return [ALL for _ in operands]
        found, start = [], 0
        for part in parts:
            width = 1 if stacked else (part.shape[dim] if part.dim() else 1)
            if id(part) in wanted:
                piece = mask.select(dim, start) if stacked else mask.narrow(dim, start, width)
                found.append((id(part), piece))
            start += 0 if part.numel() == 0 and part.dim() == 1 and not stacked else width
        return by_identity(found, operands)

    return back


def by_identity(found: list[tuple[int, Tensor]], operands: list[Tensor]) -> list[Mask]:
    """One mask an operand, in order; a tensor given twice takes its pieces in turn."""
    answers: list[Mask] = []
    for operand in operands:
        place = next((number for number, (key, _) in enumerate(found) if key == id(operand)), None)
        answers.append(ALL if place is None else found.pop(place)[1])
    return answers


def product(args: tuple[Any, ...], operands: list[Tensor]) -> Rule:
    """(added +) A @ B: a result needs its row of A and its column of B."""
    left, right = args[-2:] if isinstance(args[-1], Tensor) else args[:2]
    roles = ["left" if each is left else "right" if each is right else "added" for each in operands]
    shapes = [tuple(each.shape) for each in operands]

    def back(mask: Mask) -> list[Mask]:
        if mask is ALL:
            return [ALL for _ in operands]
        answers: list[Mask] = []
        for role, shape in zip(roles, shapes, strict=True):
            if role == "left":
                answers.append(mask.any(-1, keepdim=True).expand(shape))
            elif role == "right":
                answers.append(mask.any(-2, keepdim=True).expand(shape))
            else:
                answers.append(spread(mask, shape))
        return answers

    return back


def moved_places(func: Any, args: Any, kwargs: Any, operand: Tensor) -> Callable[[], Tensor | None]:
    """When asked: for each element of the result, 1 + its place in `operand`, 0 where it is a filling."""
    shape = tuple(operand.shape)
    plan = tree_map(lambda each: HERE if each is operand else each, (args, kwargs))
    held: list[Tensor | None] = []

    def ask() -> Tensor | None:
        if not held:
            places = torch.arange(1, 1 + torch.Size(shape).numel()).view(shape)
            inner, named = tree_map(lambda each: places if each is HERE else each, plan)
            try:
                moved = func(*inner, **named)
            except (RuntimeError, TypeError, NotImplementedError):
                moved = None
            held.append(moved if isinstance(moved, Tensor) and not moved.is_meta else None)
        return held[0]

    return ask


def places_mask(moved: Tensor | None, mask: Mask, shape: tuple[int, ...]) -> Mask:
    if moved is None:
        return ALL
    found = torch.zeros(1 + torch.Size(shape).numel(), dtype=torch.bool)
    found[(moved if mask is ALL else moved[mask]).reshape(-1)] = True
    return found[1:].view(shape)


def reduced(args: Any, kwargs: Any, shape: tuple[int, ...], out: tuple[int, ...]) -> Rule:
    """A reduction over some axes, with or without keeping them."""
    kept = len(out) == len(shape)
    dims = [each for each in (*args[1:], *kwargs.values()) if isinstance(each, list | tuple)]
    axes = {each % len(shape) for each in dims[0]} if dims and shape else set()
    if not axes and not kept and len(args) > 1 and isinstance(args[1], int) and shape:
        axes = {args[1] % len(shape)}

    def back(mask: Mask) -> list[Mask]:
        if mask is ALL or not shape or (not kept and len(shape) - len(axes) != len(out)):
            return [ALL]
        if not kept:
            for axis in sorted(axes):
                mask = mask.unsqueeze(axis)
        return [mask.expand(shape)]

    return back


def along(dim: Any, shapes: list[tuple[int, ...]], others: bool) -> Rule:
    """`others`: the result's axis `dim` is the one that stays apart (weight norm)."""

    def back(mask: Mask) -> list[Mask]:
        if mask is ALL or not isinstance(dim, int):
            return [ALL for _ in shapes]
        rank = mask.dim()
        axes = [axis for axis in range(rank) if (axis == dim % rank) != others]
        spreaded = mask
        for axis in axes:
            spreaded = spreaded.any(axis, keepdim=True)
        return [spread(spreaded.expand(mask.shape), shape) for shape in shapes]

    return back
