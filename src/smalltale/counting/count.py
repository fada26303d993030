"""Counted parameters: every distinct trained weight, times the distinct times it takes part in one forward computation.

In: a module, and inputs where they cannot be guessed. Out: a ParameterCount that explains itself.
Uses are counted for each element by watching forward passes (watch.py) at lengths 1, 2, 8 and the context.
Beware: `proven` is false wherever something could not be seen or explained; the larger figure stands then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from smalltale.counting.budget import budget_notes, refuse_over_budget
from smalltale.counting.inputs import describe_forwards
from smalltale.counting.measure import watch
from smalltale.counting.report import Findings, few
from smalltale.counting.uses import Uses
from smalltale.counting.weights import Held, Ledger, held_weights
from smalltale.rules import Rules

__all__ = ["CountRow", "ParameterCount", "count_parameters", "refuse_over_budget"]


class CountRow(NamedTuple):
    """One weight tensor; a second name of the same storage is in `name` too."""

    name: str
    shape: str
    unique: int
    uses: int
    """The most uses of any of its elements, embedding and decoder taken as one."""
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
    """What was tied, reused and where, not counted and why, why it is not proven, the budget left."""
    proven: bool
    """Whether nothing escaped the tracing and every further use at longer inputs was explained."""


def count_parameters(
    model: nn.Module,
    inputs: Any = None,
    *,
    every_float: bool = False,
    frozen: frozenset[str] = frozenset(),
    depth: int = 1,
) -> ParameterCount:
    """Count a module. Its weights and its mode are left as they were.

    inputs: a tensor, a tuple of positional or a mapping of keyword arguments; positions are axis 1. Token ids (1, T) without.
    every_float: count all that a file of weights holds (nothing in it shows what was frozen), but for the names in `frozen`.
    depth: the declared most rounds of a loop whose length depends on its data.
    Raises SmalltaleError where no input can be made or the forward pass fails.
    """
    ledger = held_weights(model, every_float, frozen)
    forwards = describe_forwards(model, inputs)
    findings = watch(forwards, ledger, depth)
    rows = rows_of(ledger, findings.uses)
    counted = sum(row.counted for row in rows)
    found = Rules().class_for(counted)
    return ParameterCount(
        unique=sum(row.unique for row in rows if row.trained),
        counted=counted,
        weight_class=found.name if found else None,
        rows=tuple(rows),
        notes=(*notes_of(rows, ledger, findings), *budget_notes(rows, counted)),
        proven=not findings.unproven,
    )


def rows_of(ledger: Ledger, uses: Uses) -> list[CountRow]:
    """A row a weight tensor, in the module's order; elements that an earlier row has are not counted again."""
    rows = []
    for held in ledger.held:
        times = uses.get(held.weight, torch.zeros((), dtype=torch.int32))
        for names, tensor, own in held.distinct():
            rows.append(row_of(names, tensor, own, times, held))
    return rows


def row_of(names: list[str], tensor: Tensor, own: Tensor | None, times: Tensor, held: Held) -> CountRow:
    """own: which of the tensor's elements no earlier row has, None for all."""
    if times.dim():
        times = times.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())
    mine = times if own is None or not times.dim() else times[own]
    unique = tensor.numel() if own is None else int(own.sum())
    trained = held.is_counted(names)
    once = mine.clamp_min(1)
    counted = (int(once.sum()) if once.dim() else int(once) * unique) if trained else 0
    return CountRow(
        name=" = ".join(names),
        shape=" × ".join(map(str, tensor.shape)) or "1",
        unique=unique,
        uses=int(mine.max()) if mine.numel() else 0,
        counted=counted,
        trained=trained,
    )


def notes_of(rows: list[CountRow], ledger: Ledger, findings: Findings) -> list[str]:
    """What a reader should know beside the table."""
    notes = [
        f"tied: {row.name} is one weight, counted once for the pair"
        for row in rows
        if " = " in row.name and row.trained
    ]
    for row in rows:
        if row.trained and row.uses > 1:
            notes.append(
                f"reused: {row.name} is used {row.uses} times ({few(ledger.places(row.name, findings.traces))})"
            )
    if idle := [row for row in rows if row.trained and not row.uses]:
        notes.append(
            f"{few([row.name for row in idle])}: {sum(row.unique for row in idle):,} trained weights take no part in the "
            "forward pass, and count once"
        )
    for kind in ("frozen", "buffer"):
        found = [row for row in rows if not row.trained and row.uses and ledger.kind(row.name) == kind]
        what = "frozen weights that take part" if kind == "frozen" else "numbers in buffers that take part"
        if found:
            notes.append(
                f"not counted: {sum(row.unique for row in found):,} {what} in the forward pass ({few([row.name for row in found])})"
            )
    if unregistered := ledger.unregistered(findings.traces):
        notes.append(
            f"not counted: {sum(each.numel() for each, _ in unregistered):,} numbers of tensors that are neither parameters nor "
            f"buffers ({few([place for _, place in unregistered])})"
        )
    notes += findings.explained
    return notes + [f"unproven: {each}" for each in findings.unproven]
