"""The weights of a module by storage: which ones are trained, which are frozen, which names share a storage.

Input: a module. Output: ModelWeights, in the module's order.
Note: two parameters may share part of a storage (`.data`, a flat buffer); a shared element belongs to the first of them.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from smalltale.counting.report import join_names
from smalltale.counting.tracing.operator_calls import storage_elements, storage_key
from smalltale.counting.tracing.trace import Trace, UnregisteredTensor
from smalltale.counting.tracing.weight_regions import ALL, Region, Weight


@dataclass(frozen=True, eq=False)
class WeightStorage:
    """One storage and the module's tensors in it."""

    weight: Weight
    tensors: tuple[tuple[str, Tensor], ...]
    counted_names: frozenset[str]

    def is_counted(self, names: Iterable[str]) -> bool:
        return any(name in self.counted_names for name in names)

    def distinct_tensors(self) -> Iterator[tuple[list[str], Tensor, Tensor | None]]:
        """Names, tensor, and a mask of its elements that are in no earlier tensor (None for all); counted tensors first."""
        regions: dict[Region, tuple[list[str], Tensor]] = {}
        for name, tensor in sorted(self.tensors, key=lambda entry: entry[0] not in self.counted_names):
            regions.setdefault(Region.of(tensor), ([], tensor))[0].append(name)
        if len(regions) == 1:
            names, tensor = next(iter(regions.values()))
            yield names, tensor, None
            return
        seen = torch.zeros(self.weight.elements, dtype=torch.bool)
        for region, (names, tensor) in regions.items():
            mask = region.to_storage_mask(ALL, self.weight.elements)
            mask = torch.ones_like(seen) if mask is ALL else mask
            yield names, tensor, (mask & ~seen).as_strided(*region)
            seen = seen | mask


@dataclass(frozen=True, eq=False)
class ModelWeights:
    """Every storage of floating-point numbers in a module."""

    storages: tuple[WeightStorage, ...]
    parameters: frozenset[str]
    buffers: frozenset[str]

    @cached_property
    def by_weight(self) -> dict[Weight, WeightStorage]:
        return {storage.weight: storage for storage in self.storages}

    @cached_property
    def by_key(self) -> dict[int, Weight]:
        """Weights by the key of their storage."""
        return {storage_key(storage.tensors[0][1]): storage.weight for storage in self.storages}

    def counts(self, weight: Weight) -> bool:
        """Whether the storage has a trained tensor, so that its uses count."""
        return weight in self.by_weight and bool(self.by_weight[weight].counted_names)

    def name(self, weight: Weight) -> str:
        return self.by_weight[weight].tensors[0][0] if weight in self.by_weight else weight.label

    def join_names(self, weights: Iterable[Weight]) -> str:
        return join_names([self.name(weight) for weight in weights])

    def use_locations(self, row_name: str, traces: Iterable[Trace]) -> list[str]:
        """Operator and source line of each use, in the pass with the most uses."""
        name = row_name.split(" = ")[0]
        weight = next(storage.weight for storage in self.storages if name in dict(storage.tensors))
        uses = max((trace.uses_of(weight) for trace in traces), key=len)
        return list(dict.fromkeys(f"{use.operator} at {use.location}" for use in uses))

    def unregistered(self, traces: Iterable[Trace]) -> list[UnregisteredTensor]:
        """Tensors that take part in a pass and are neither parameters nor buffers nor trained."""
        entry_by_key = {storage_key(entry.tensor): entry for trace in traces for entry in trace.unregistered}
        return [entry for key, entry in entry_by_key.items() if key not in self.by_key]

    def with_unregistered(self, trace: Trace) -> ModelWeights:
        """Adds trained tensors that no parameter names, such as tensors with requires_grad in a plain list."""
        storages = list(self.storages)
        for weight, tensor, _ in trace.unregistered:
            if tensor.requires_grad and tensor.is_leaf:
                name = f"(unregistered {len(storages)})"
                storages.append(WeightStorage(weight, ((name, tensor),), frozenset({name})))
        return replace(self, storages=tuple(storages)) if len(storages) > len(self.storages) else self


def find_copies(
    weights: ModelWeights, used: Container[Weight], traces: Iterable[Trace]
) -> list[tuple[str, str]]:
    """Pairs of names: an uncounted tensor that takes part, and the counted tensor whose numbers it has."""
    uncounted = [(f"the tensor at {entry.location}", entry.tensor) for entry in weights.unregistered(traces)]
    counted: list[tuple[str, Tensor]] = []
    for storage in weights.storages:
        for names, tensor, _ in storage.distinct_tensors():
            if storage.is_counted(names):
                counted.append((names[0], tensor))
            elif storage.weight in used:
                uncounted.append((names[0], tensor))
    sizes = {tensor.numel() for _, tensor in uncounted}
    originals = {summarize(tensor): name for name, tensor in reversed(counted) if tensor.numel() in sizes}
    summaries = [(name, summarize(tensor)) for name, tensor in uncounted]
    return [
        (name, originals[summary])
        for name, summary in summaries
        if summary is not None and summary in originals
    ]


def summarize(tensor: Tensor) -> tuple[int, float, float] | None:
    """Size, maximum and minimum, equal for tensors of the same numbers in any order; None if all numbers are equal or absent."""
    flat = tensor.detach()
    if flat.is_meta or flat.numel() < 2 or not flat.is_floating_point() or bool(flat.min() == flat.max()):
        return None
    return flat.numel(), float(flat.max()), float(flat.min())


def collect_weights(model: nn.Module, every_float: bool, frozen: frozenset[str]) -> ModelWeights:
    """The storages of a module's floating-point parameters and buffers. Arguments: see count_parameters."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers(remove_duplicate=False))
    trained = {name for name, parameter in parameters.items() if parameter.requires_grad}
    counted = (trained | set(model.state_dict(keep_vars=True)) if every_float else trained) - frozen
    tensors_by_key: dict[int, list[tuple[str, Tensor]]] = {}
    for name, tensor in [*parameters.items(), *buffers.items()]:
        if tensor.numel() and (tensor.is_floating_point() or tensor.is_complex()):
            real = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor
            tensors_by_key.setdefault(storage_key(tensor), []).append((name, real))
    storages = []
    for tensors in tensors_by_key.values():
        name, tensor = tensors[0]
        counted_names = [tensor_name for tensor_name, _ in tensors if tensor_name in counted]
        label = counted_names[-1] if counted_names else "buffer" if name in buffers else "frozen"
        weight = Weight(storage_elements(tensor), label, tensor.element_size())
        storages.append(WeightStorage(weight, tuple(tensors), frozenset(counted_names)))
    return ModelWeights(tuple(storages), frozenset(parameters), frozenset(buffers))
