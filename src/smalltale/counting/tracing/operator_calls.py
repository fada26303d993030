"""The tensors of one operator call: their storages, which ones are written, and their shapes on the meta device.

Input: an operator and its arguments. Output: storage keys, tensors, operands.
A tensor is identified by its storage, so all its views have the same key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from smalltale.counting.tracing.trace import Kind
from smalltale.counting.tracing.weight_regions import Operand, Source

LOOKUPS = {
    "embedding", "index", "index_select", "gather", "take", "_embedding_bag", "_embedding_bag_forward_only", "embedding_bag",
}  # fmt: skip
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "linear", "matmul", "dot", "_scaled_mm"}
SHAPE_ONLY = {
    "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like", "new_zeros",
    "new_ones", "new_empty", "new_full", "new_empty_strided", "_has_compatible_shallow_copy_type",
}  # fmt: skip
"""Operators that read no number of their operand."""
TRACEABLE_NAMESPACES = {"aten", "prims", "prim", "quantized_decomposed", "_c10d_functional"}

DATA, CONSTANT = "data", "constant"


class OperatorCall(NamedTuple):
    """One operator call and the sources of its tensors."""

    func: Any
    name: str
    """Without namespace and overload."""
    args: Any
    kwargs: Any
    tensors: list[Tensor]
    sources: list[Source | str]
    operands: list[tuple[Tensor, Source]]
    """The tensors computed from weights."""
    data_copies: list[Tensor]
    written: list[Tensor]

    @property
    def has_data(self) -> bool:
        return DATA in self.sources

    def operands_except(self, overwritten: bool) -> list[tuple[Tensor, Source]]:
        """The operands; without those that the call overwrites completely, if `overwritten`."""
        written_ids = {id(tensor) for tensor in self.written} if overwritten else set()
        return [(tensor, source) for tensor, source in self.operands if id(tensor) not in written_ids]

    @property
    def kind(self) -> Kind:
        table_is_data = self.sources[0] == DATA if self.sources else True
        if self.name in LOOKUPS and isinstance(self.args[0], Tensor) and not table_is_data:
            return "lookup"
        return "product" if self.name in PRODUCTS else "other"


def storage_key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def storage_elements(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes() // max(1, tensor.element_size())


def iter_tensors(*values: Any) -> Iterator[Tensor]:
    """Every tensor in an operator's arguments or results, which nest lists and mappings only (faster than tree_leaves)."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from iter_tensors(*value)
        elif isinstance(value, dict):
            yield from iter_tensors(*value.values())


def iter_nested_tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested containers, including dataclasses and other objects with attributes."""
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            yield leaf
        elif hasattr(leaf, "__dict__") and not isinstance(leaf, nn.Module | type):
            for attribute in vars(leaf).values():
                yield from (tensor for tensor in tree_leaves(attribute) if isinstance(tensor, Tensor))


def map_tensors(function: Callable[[Tensor], Any], values: Any) -> Any:
    """tree_map over tensors; other leaves stay as they are."""
    return tree_map(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, values)


def run_on_meta(func: Any, args: Any, kwargs: Any, constant: bool) -> Any:
    """The operator's result on the meta device. With `constant` its values, which make look-ups by them exact."""
    takes_device = any(argument.name == "device" for argument in func._schema.arguments)
    if takes_device:
        kwargs = {**kwargs, "device": torch.device("cpu" if constant else "meta")}
    if constant:
        return func(*args, **kwargs)
    meta_args, meta_kwargs = map_tensors(lambda tensor: tensor.to("meta"), (args, kwargs))
    out = func(*meta_args, **meta_kwargs)
    written = written_tensors(func, args, kwargs)
    return written[0] if len(written) == 1 and isinstance(out, Tensor) else out


def first_row(call: OperatorCall, weights: list[tuple[Tensor, Source]]) -> Operand | None:
    """The first row of a looked-up table; the weights of the first output of a product with one matrix."""
    sources = {id(tensor): source for tensor, source in weights}
    if call.kind == "lookup":
        if id(call.args[0]) not in sources:
            return None
        table = Operand.of(sources[id(call.args[0])], call.args[0])
        return table._replace(region=table.region.select(0, 0))
    if call.name not in {"mm", "addmm", "bmm", "baddbmm"}:
        return None
    left, right = call.args[-2:]
    matrix, output_axis = (right, -1) if id(right) in sources else (left, -2)
    if id(matrix) not in sources:
        return None
    source, region, exact = Operand.of(sources[id(matrix)], matrix)
    if len(region.size) == 3:
        if region.size[0] != 1:
            return None
        region = region.select(0, 0)
    return Operand(source, region.select(output_axis, 0)) if exact else None


def selection_masks(name: str, args: Any) -> list[Tensor]:
    """The masks by which an operator selects elements; empty for other ways to select."""
    if name == "nonzero":
        return [args[0]]
    if name == "masked_select":
        return [args[1]]
    if name == "index":
        return [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
    return []


def written_tensors(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The operands that the operator writes into."""
    written: list[Tensor] = []
    for number, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            written += iter_tensors(args[number] if number < len(args) else kwargs.get(argument.name))
    return written
