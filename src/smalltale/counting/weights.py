"""The weights a module holds, by storage: which are trained, which are frozen, which names share one storage.

In: a module. Out: a Ledger, in the module's order.
Beware: two parameters may share a storage in part (`.data`, a flat buffer); an element belongs to the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from smalltale.counting.tracing.operator_calls import elements_of, storage_key
from smalltale.counting.tracing.trace import Trace, meetings_of
from smalltale.counting.tracing.weight_regions import Region, Weight
from smalltale.counting.uses import Uses


@dataclass(eq=False)
class Held:
    """One storage and the tensors of the module that lie in it."""

    weight: Weight
    tensors: list[tuple[str, Tensor]]
    counted: set[str]

    def is_counted(self, names: list[str]) -> bool:
        return any(name in self.counted for name in names)

    def distinct(self) -> Iterator[tuple[list[str], Tensor, Tensor | None]]:
        """Names, the tensor, and which of its elements are its own (None for all); counted tensors first."""
        regions: dict[Region, tuple[list[str], Tensor]] = {}
        for name, tensor in sorted(self.tensors, key=lambda each: each[0] not in self.counted):
            regions.setdefault(Region.of(tensor), ([], tensor))[0].append(name)
        taken: Tensor | None = None
        for region, (names, tensor) in regions.items():
            if len(regions) == 1:
                yield names, tensor, None
                return
            mask = region.over_storage(None, self.weight.elements)
            mask = torch.ones(self.weight.elements, dtype=torch.bool) if mask is None else mask
            own = mask if taken is None else mask & ~taken
            taken = mask if taken is None else mask | taken
            yield names, tensor, own.as_strided(*region)


@dataclass
class Ledger:
    """Every storage that the module holds."""

    held: list[Held]
    by_storage: dict[int, Weight]
    parameters: set[str]
    buffers: set[str]
    names: dict[Weight, str] = field(default_factory=dict)

    def counts(self, weight: Weight) -> bool:
        """Whether a trained tensor lies in the storage."""
        return any(each.weight is weight and each.counted for each in self.held)

    def name(self, weight: Weight) -> str:
        return self.names.get(weight, weight.label)

    def kind(self, name: str) -> str:
        first = name.split(" = ")[0]
        return "buffer" if first in self.buffers else "frozen" if first in self.parameters else "unregistered"

    def places(self, name: str, traces: list[Trace]) -> list[str]:
        """Operator and source line of each use, in the pass that made the most."""
        first = name.split(" = ")[0]
        weight = next(
            (held.weight for held in self.held if any(first == each for each, _ in held.tensors)), None
        )
        if weight is None:
            return []
        found = max(
            ([meeting for meeting, _ in meetings_of(each, weight)] for each in traces), key=len, default=[]
        )
        return list(dict.fromkeys(f"{meeting.operator} at {meeting.place}" for meeting in found))

    def twins(self, uses: Uses, traces: list[Trace]) -> list[tuple[str, str]]:
        """Uncounted tensors that take part and hold the very numbers of a counted one, with its name."""
        others = [(f"the tensor at {place}", each) for each, place in self.unregistered(traces)]
        counted: list[tuple[str, Tensor]] = []
        for held in self.held:
            for names, tensor, _ in held.distinct():
                if held.is_counted(names):
                    counted.append((names[0], tensor))
                elif held.weight in uses:
                    others.append((names[0], tensor))
        sizes = {each.numel() for _, each in others}
        known = {numbers_of(each): name for name, each in reversed(counted) if each.numel() in sizes}
        found = [(name, numbers_of(each)) for name, each in others]
        return [(name, known[numbers]) for name, numbers in found if numbers is not None and numbers in known]

    def unregistered(self, traces: list[Trace]) -> list[tuple[Tensor, str]]:
        """Tensors that take part, and that are neither parameters nor buffers nor trained; with where they do."""
        found = {
            storage_key(each): (each, place)
            for seen in traces
            for _, each, place in seen.strangers
            if storage_key(each) not in self.by_storage
        }
        return list(found.values())

    def adopt(self, seen: Trace) -> None:
        """Take in trained tensors that no parameter names (a plain list of tensors that want gradients)."""
        for weight, tensor, _ in seen.strangers:
            if tensor.requires_grad and tensor.is_leaf:
                name = f"(unregistered {len(self.held)})"
                self.held.append(Held(weight, [(name, tensor)], {name}))
                self.by_storage[storage_key(tensor)] = weight
                self.names[weight] = weight.label = name


def numbers_of(tensor: Tensor) -> tuple[int, float, float] | None:
    """What two tensors of the same numbers share, in any order; None where all its numbers are alike, or it has none."""
    flat = tensor.detach()
    if flat.is_meta or flat.numel() < 2 or not flat.is_floating_point() or bool(flat.min() == flat.max()):
        return None
    return flat.numel(), float(flat.max()), float(flat.min())


def held_weights(model: nn.Module, every_float: bool, frozen: frozenset[str]) -> Ledger:
    """The storages of a module's floating-point parameters and buffers."""
    ledger = Ledger([], {}, set(), set())
    by_weight: dict[int, Held] = {}
    named: list[tuple[str, Tensor, bool]] = [
        (name, each, each.requires_grad) for name, each in model.named_parameters(remove_duplicate=False)
    ]
    ledger.parameters.update(name for name, _, _ in named)
    buffers = [(name, each, False) for name, each in model.named_buffers(remove_duplicate=False)]
    ledger.buffers.update(name for name, _, _ in buffers)
    in_file = set(model.state_dict(keep_vars=True)) if every_float else set()
    for name, tensor, trained in named + buffers:
        if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.numel() == 0:
            continue
        key = storage_key(tensor)
        if tensor.is_complex():
            tensor = torch.view_as_real(tensor.detach())
        held = by_weight.get(key)
        if held is None:
            label = "buffer" if name in ledger.buffers else "frozen"
            held = Held(Weight(elements_of(tensor), label, tensor.element_size()), [], set())
            by_weight[key] = held
            ledger.by_storage[key] = held.weight
            ledger.names[held.weight] = name
            ledger.held.append(held)
        held.tensors.append((name, tensor))
        if (trained or name in in_file) and name not in frozen:
            held.counted.add(name)
            held.weight.label = name
    return ledger
