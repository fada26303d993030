"""Counted parameters: every distinct trained weight, times the distinct times it takes part in one forward computation.

Input: a module, and inputs if these cannot be derived from it. Output: a CountReport that explains every number.
Four steps, each from one frozen value to the next: trace forward passes (passes.py), count the uses of every weight element
in each pass (uses.py), decide which count holds where passes differ (settle.py), report.
Note: if a use may be untraced or unexplained, the report has the larger count and `proven` is false.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from smalltale.counting.budget import budget_notes
from smalltale.counting.inputs import prepare_inputs
from smalltale.counting.passes import TracedPasses, trace_passes
from smalltale.counting.report import CountReport, CountRow, SettledUses, join_names
from smalltale.counting.settle import settle_uses
from smalltale.counting.tracing.use_counts import ZERO, UseCounts
from smalltale.counting.tracing.weight_regions import ALL, Mask
from smalltale.counting.uses import count_uses
from smalltale.counting.weights import ModelWeights, collect_weights
from smalltale.rules import Rules


def count_parameters(
    model: nn.Module,
    inputs: Any = None,
    *,
    every_float: bool = False,
    frozen: frozenset[str] = frozenset(),
    depth: int = 1,
) -> CountReport:
    """Count the parameters of a module. Its weights and its mode stay as they are.

    inputs: a tensor, a tuple of positional or a mapping of keyword arguments, with positions on axis 1; token ids (1, T) if None.
    every_float: count all that a weights file contains (a file does not show what was frozen), except the names in `frozen`.
    depth: the declared maximum number of iterations of a loop whose length depends on its data.
    Raises SmalltaleError if no input can be built or the forward pass fails.
    """
    weights = collect_weights(model, every_float, frozen)
    model_inputs = prepare_inputs(model, inputs)
    passes = trace_passes(model_inputs, weights)
    uses = count_uses(passes)
    settled = settle_uses(model_inputs, passes, uses, depth)
    return build_report(passes, settled)


def build_report(passes: TracedPasses, settled: SettledUses) -> CountReport:
    rows = build_rows(passes.weights, settled.counts)
    counted = sum(row.counted for row in rows)
    weight_class = Rules().class_for(counted)
    return CountReport(
        unique=sum(row.unique for row in rows if row.trained),
        counted=counted,
        weight_class=weight_class.name if weight_class else None,
        rows=tuple(rows),
        notes=(*build_notes(rows, passes, settled), *budget_notes(rows, counted)),
        proven=not settled.notes.unproven,
    )


def build_rows(weights: ModelWeights, counts: UseCounts) -> list[CountRow]:
    """One row per weight tensor, in the module's order; an element that two tensors share counts in the first row only."""
    return [
        build_row(names, tensor, mask, counts.get(storage.weight, ZERO), storage.is_counted(names))
        for storage in weights.storages
        for names, tensor, mask in storage.distinct_tensors()
    ]


def build_row(names: list[str], tensor: Tensor, mask: Mask, times: Tensor, trained: bool) -> CountRow:
    """The row of a tensor. mask: the elements that no earlier row has counted. times: uses in its storage."""
    if times.dim():
        times = times.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())
        times = times if mask is ALL else times[mask]
    unique = tensor.numel() if mask is ALL else int(mask.sum())
    at_least_once = times.clamp_min(1)
    counted = int(at_least_once.sum()) if at_least_once.dim() else int(at_least_once) * unique
    return CountRow(
        name=" = ".join(names),
        shape=" × ".join(map(str, tensor.shape)) or "1",
        unique=unique,
        uses=int(times.max()) if times.numel() else 0,
        counted=counted if trained else 0,
        trained=trained,
    )


def build_notes(rows: list[CountRow], passes: TracedPasses, settled: SettledUses) -> list[str]:
    """Sentences that explain the rows: tied, reused, unused and uncounted weights, then the notes of the steps."""
    weights = passes.weights
    notes = [
        f"tied: {row.name} is one weight, counted once for the pair"
        for row in rows
        if " = " in row.name and row.trained
    ]
    for row in rows:
        if row.trained and row.uses > 1:
            locations = join_names(weights.use_locations(row.name, passes.traces))
            notes.append(f"reused: {row.name} is used {row.uses} times ({locations})")
    if unused := [row for row in rows if row.trained and not row.uses]:
        notes.append(
            f"{join_names([row.name for row in unused])}: {sum(row.unique for row in unused):,} trained weights take no part "
            "in the forward pass, and count once"
        )
    uncounted_rows = [row for row in rows if not row.trained and row.uses]
    for kind, names in {"frozen weights": weights.parameters, "numbers in buffers": weights.buffers}.items():
        if uncounted := [row for row in uncounted_rows if row.name.split(" = ")[0] in names]:
            notes.append(
                f"not counted: {sum(row.unique for row in uncounted):,} {kind} that take part in the forward pass "
                f"({join_names([row.name for row in uncounted])})"
            )
    if unregistered := weights.unregistered(passes.traces):
        notes.append(
            f"not counted: {sum(tensor.numel() for _, tensor, _ in unregistered):,} numbers of tensors that are neither "
            f"parameters nor buffers ({join_names([location for _, _, location in unregistered])})"
        )
    return [*notes, *settled.notes.explained, *(f"unproven: {doubt}" for doubt in settled.notes.unproven)]
