"""Counted parameters: every distinct trained weight, times the distinct times it takes part in one forward computation.

In: a module. Out: a ParameterCount that explains itself.
Beware: uses are counted for each element, by watching one forward pass (model/trace.py), so a slice of a fused matrix is
its own weight. Embedding and decoder tied count once for the pair; a third use counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smalltale.errors import OverBudget
from smalltale.model.trace import Uses, trace_uses
from smalltale.rules import Rules, WeightClass


@dataclass(frozen=True, kw_only=True)
class CountRow:
    """One distinct weight tensor."""

    name: str
    """Every name it goes by in the module."""
    shape: str
    unique: int
    uses: int
    """The most uses of any of its elements, a tied embedding and decoder taken as one."""
    counted: int
    trained: bool


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """A module's count under the rule."""

    unique: int
    """Trained weights, each once."""
    counted: int
    weight_class: str | None
    """The smallest class it fits, None above all."""
    rows: tuple[CountRow, ...]
    notes: tuple[str, ...]
    proven: bool
    """Whether the figure is the same at every length tried."""


def count_parameters(model: nn.Module, inputs: tuple[Tensor, ...] | None = None) -> ParameterCount:
    """Count a module that takes token ids (1, T), or the given inputs. The module's weights are not changed."""
    names: dict[int, list[str]] = {}
    weights: dict[int, nn.Parameter] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.is_floating_point():
            names.setdefault(id(parameter), []).append(name)
            weights[id(parameter)] = parameter
    lengths = (
        [inputs]
        if inputs is not None
        else [(torch.zeros(1, T, dtype=torch.long, device=device_of(model)),) for T in (1, 8)]
    )
    measured = [rows_of(weights, names, trace_uses(model, each)) for each in lengths]
    totals = [sum(row.counted for row in rows) for rows in measured]
    rows = measured[totals.index(max(totals))]
    counted = max(totals)
    found = Rules().class_for(counted)
    return ParameterCount(
        unique=sum(row.unique for row in rows if row.trained),
        counted=counted,
        weight_class=found.name if found else None,
        rows=tuple(rows),
        notes=tuple(notes_of(rows, model, totals)),
        proven=len(set(totals)) == 1,
    )


def rows_of(
    weights: dict[int, nn.Parameter], names: dict[int, list[str]], uses: dict[int, Uses]
) -> list[CountRow]:
    """A row a weight, in the module's order."""
    rows = []
    for key, parameter in weights.items():
        found = uses.get(key)
        times = found.times() if found else torch.zeros(parameter.numel(), dtype=torch.int32)
        counted = int(times.clamp_min(1).sum()) if parameter.requires_grad else 0
        rows.append(
            CountRow(
                name=" = ".join(names[key]),
                shape=" × ".join(map(str, parameter.shape)) or "1",
                unique=parameter.numel(),
                uses=int(times.max()) if len(times) else 0,
                counted=counted,
                trained=parameter.requires_grad,
            )
        )
    return rows


def notes_of(rows: list[CountRow], model: nn.Module, totals: list[int]) -> list[str]:
    """What a reader should know beside the table."""
    notes = [f"{row.name} is used {row.uses} times" for row in rows if row.trained and row.uses > 1]
    notes += [
        f"{row.name} takes no part in the forward pass, and counts once"
        for row in rows
        if row.trained and not row.uses
    ]
    frozen = sum(row.unique for row in rows if not row.trained and row.uses)
    buffers = sum(each.numel() for each in model.buffers() if each.is_floating_point())
    if frozen:
        notes.append(f"not counted: {frozen:,} frozen weights that take part in the forward pass")
    if buffers:
        notes.append(f"not counted: {buffers:,} numbers in buffers")
    if len(set(totals)) > 1:
        notes.append(f"the count changes with the length of the input ({totals}); the largest stands")
    return notes


def device_of(model: nn.Module) -> torch.device:
    """Where the module's first weight lies."""
    return next((each.device for each in model.parameters()), torch.device("cpu"))


def refuse_over_budget(count: ParameterCount, weight_class: WeightClass) -> None:
    """Raise OverBudget where the count is above its class."""
    if count.counted > weight_class.max_parameters:
        over = count.counted - weight_class.max_parameters
        largest = max(count.rows, key=lambda row: row.counted)
        raise OverBudget(
            f"the model has {count.counted:,} counted parameters, class {weight_class.name} allows "
            f"{weight_class.max_parameters:,}: {over:,} too many; the largest weight is {largest.name} ({largest.counted:,}): "
            "lower model.layers, model.width or the vocabulary"
        )
