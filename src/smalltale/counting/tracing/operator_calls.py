"""The tensors of one operator call: where they are stored, which are written, what they would be by shape alone.

In: an operator and its arguments. Out: keys, regions' operands, tensors.
Beware: a tensor is known by its storage, so every view of it has the same key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from smalltale.counting.tracing.trace import Kind
from smalltale.counting.tracing.weight_regions import Operand, Source


def storage_key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def elements_of(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes() // max(1, tensor.element_size())


def tensors_in(*values: Any) -> Iterator[Tensor]:
    """Every tensor in an operator's arguments or results: lists and mappings at most. (torch's own walk takes longer.)"""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(*value)
        elif isinstance(value, dict):
            yield from tensors_in(*value.values())


def shapes_of(func: Any, args: Any, kwargs: Any, constant: bool) -> Any:
    """The operator's result on the meta device; of constants alone their values, which place look-ups exactly."""
    placed = any(each.name == "device" for each in func._schema.arguments)
    if constant:
        return func(*args, **({**kwargs, "device": torch.device("cpu")} if placed else kwargs))
    if placed:
        kwargs = {**kwargs, "device": torch.device("meta")}
    moved, named = tree_map(
        lambda each: each.to("meta") if isinstance(each, Tensor) else each, (args, kwargs)
    )
    out = func(*moved, **named)
    written = written_tensors(func, args, kwargs)
    return written[0] if len(written) == 1 and isinstance(out, Tensor) else out


def slice_of(name: str, kind: Kind, args: Any, weights: list[tuple[Tensor, Source]]) -> Operand | None:
    """The first row of a looked-up table; what makes the first output of a product with one matrix."""
    sources = {id(each): source for each, source in weights}
    if kind == "lookup":
        table = args[0]
        return row_of(Operand.of(sources[id(table)], table)) if id(table) in sources else None
    if name not in {"mm", "addmm", "bmm", "baddbmm"}:
        return None
    left, right = args[-2:]
    matrix, axis = (right, -1) if id(right) in sources else (left, -2)
    if id(matrix) not in sources:
        return None
    source, region, exact = Operand.of(sources[id(matrix)], matrix)
    if len(region.size) == 3:
        if region.size[0] != 1:
            return None
        region = region.at(0, 0)
    return Operand(source, region.at(axis, 0)) if exact else None


def row_of(table: Operand) -> Operand:
    return table._replace(region=table.region.at(0, 0))


def masks_of(name: str, args: Any) -> list[Tensor]:
    """The masks by which an operator picks elements; none for one that picks otherwise."""
    if name == "nonzero":
        return [args[0]]
    if name == "masked_select":
        return [args[1]]
    if name == "index":
        return [each for each in args[1] if each is not None and each.dtype in (torch.bool, torch.uint8)]
    return []


def all_or_none(args: Any, masks: list[Tensor], every: bool, learn: Callable[[Tensor, Tensor], None]) -> Any:
    """The arguments with every mask full, or empty; `learn` is told of each new mask and the old one."""
    new: dict[int, Tensor] = {}
    for each in masks:
        new[id(each)] = torch.full_like(each, every)
        learn(new[id(each)], each)
    return tree_map(lambda each: new.get(id(each), each) if isinstance(each, Tensor) else each, args)


def written_tensors(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The operands that the operator writes into."""
    found: list[Tensor] = []
    for number, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[number] if number < len(args) else kwargs.get(argument.name)
            found += tensors_in(value)
    return found


def all_tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested containers, dataclasses among them."""
    for each in tree_leaves(value):
        if isinstance(each, Tensor):
            yield each
        elif hasattr(each, "__dict__") and not isinstance(each, nn.Module | type):
            for inner in vars(each).values():
                yield from (found for found in tree_leaves(inner) if isinstance(found, Tensor))
