"""Watch one forward pass and note, element by element, how often each weight meets data.

In: a module and its inputs. Out: Uses for each parameter.
Beware: views, casts and copies of a weight carry the indices of its elements along; arithmetic among weights alone
carries all of theirs. An operator in which something derived from the input meets weights is one use of each.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

aten = torch.ops.aten
COPIES = {
    aten.clone.default,
    aten._to_copy.default,
    aten.cat.default,
    aten.stack.default,
    aten.repeat.default,
    aten.index_select.default,
    aten.index.Tensor,
    aten._reshape_copy.default,
    aten.lift_fresh.default,
}
"""Operators beside views that move elements without mixing them."""


@dataclass
class Uses:
    """How often each element of a weight was looked up as an embedding, and used in any other way."""

    lookups: Tensor
    others: Tensor

    def times(self) -> Tensor:
        """Uses of each element, a look-up and one other use taken as one."""
        pair = (self.lookups > 0) & (self.others > 0)
        return self.lookups + self.others - pair.int()


def trace_uses(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[int, Uses]:
    """Uses by id(parameter), over one forward pass in evaluation mode without gradients."""
    training = model.training
    watch = Watch(model)
    model.eval()
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"), watch:
            watch.begin(inputs)
            model(*inputs)
    finally:
        model.train(training)
    return watch.uses()


class Watch(TorchDispatchMode):
    """Carries element indices beside every tensor that holds weights, and marks what comes from the input."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.parameters = {id(each): each for each in model.parameters() if each.is_floating_point()}
        self.first: dict[int, int] = {}
        total = 0
        self.carried: dict[int, Tensor] = {}
        self.alive: list[Tensor] = []
        for key, parameter in self.parameters.items():
            self.first[key] = total
            indices = torch.arange(total, total + parameter.numel(), dtype=torch.int32)
            self.carried[key] = indices.view(parameter.shape)
            total += parameter.numel()
        self.data: set[int] = set()
        self.lookups = torch.zeros(total, dtype=torch.int32)
        self.others = torch.zeros(total, dtype=torch.int32)

    def begin(self, inputs: tuple[Tensor, ...]) -> None:
        """Mark the inputs as data."""
        self.data.update(id(each) for each in tree_iter(inputs) if isinstance(each, Tensor))

    def uses(self) -> dict[int, Uses]:
        """What was seen, a Uses for each parameter."""
        return {
            key: Uses(
                lookups=self.lookups[start : start + self.parameters[key].numel()],
                others=self.others[start : start + self.parameters[key].numel()],
            )
            for key, start in self.first.items()
        }

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        tensors = [each for each in tree_iter((args, kwargs)) if isinstance(each, Tensor)]
        weights = [self.carried[id(each)] for each in tensors if id(each) in self.carried]
        results = [each for each in tree_iter(out) if isinstance(each, Tensor)]
        if any(id(each) in self.data for each in tensors):
            if weights:
                self.mark(func, weights)
            self.keep(results)
            self.data.update(map(id, results))
            for each in results:
                self.carried.pop(id(each), None)
        elif weights:
            self.keep(results)
            for each, indices in zip(results, self.moved(func, args, kwargs, results, weights), strict=True):
                self.carried[id(each)] = indices
        return out

    def keep(self, results: Iterable[Tensor]) -> None:
        """Hold results, so that no later tensor takes their identity."""
        self.alive.extend(results)

    def mark(self, func: Any, weights: list[Tensor]) -> None:
        """One use of every element that these weights carry."""
        counter = self.lookups if func is aten.embedding.default else self.others
        seen = torch.cat([each.reshape(-1) for each in weights]).unique()  # type: ignore[no-untyped-call]
        counter[seen[seen >= 0].long()] += 1

    def moved(
        self, func: Any, args: Any, kwargs: Any, results: list[Tensor], weights: list[Tensor]
    ) -> list[Tensor]:
        """The indices that each result carries."""
        is_view = any(
            each.alias_info is not None and not each.alias_info.is_write for each in func._schema.returns
        )
        if is_view or func in COPIES:
            plain = {
                key: value
                for key, value in kwargs.items()
                if key not in {"dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking"}
            }

            def indices_of(each: Any) -> Any:
                if isinstance(each, Tensor) and each.is_floating_point():
                    return self.carried.get(id(each), torch.full(each.shape, -1, dtype=torch.int32))
                return each

            if func is aten._to_copy.default:
                return [indices_of(args[0])]
            moved = func(*tree_map(indices_of, args), **plain)
            return [each for each in tree_iter(moved) if isinstance(each, Tensor)]
        everything = torch.cat([each.reshape(-1) for each in weights]).unique()  # type: ignore[no-untyped-call]
        return [everything for _ in results]
