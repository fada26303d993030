"""The settle step: decides how often each weight is used, from counts that differ between inputs.

Input: the traced passes and their Uses. Output: SettledUses.
The uses of the shortest input count if all further uses of longer inputs belong to other positions (recurrence.py);
otherwise the most uses count, and a note says why these are not proven. The same holds for a batch and its rows.
"""

from __future__ import annotations

import torch

from smalltale.counting.inputs import BATCH_ROWS, ModelInputs
from smalltale.counting.passes import TracedPasses
from smalltale.counting.recurrence import explained_weights
from smalltale.counting.report import Notes, SettledUses, join_names
from smalltale.counting.shared_activations import raise_to_activations
from smalltale.counting.tracing.use_counts import ZERO, UseCounts, first_uses, max_uses
from smalltale.counting.uses import Uses
from smalltale.counting.weights import ModelWeights, find_copies


def settle_uses(inputs: ModelInputs, passes: TracedPasses, uses: Uses, depth: int) -> SettledUses:
    """Decide how often each weight is used. depth: see count_parameters."""
    settled = settle_growth(inputs, passes.weights, uses.by_length).add_notes(passes.notes + uses.notes)
    settled = raise_to_activations(inputs, passes.weights, passes.by_length, settled, uses.shared)
    if passes.batch:
        settled = settle_batch(inputs, passes, uses, settled)
    settled = raise_to_filled(passes, uses, settled)
    copies = [
        f"{copy} is not counted and holds the same numbers as {name}; if it is a copy, its uses are reuse"
        for copy, name in find_copies(passes.weights, settled.counts, passes.traces)
    ]
    repeated = {
        weight: settled.counts[weight].clamp_min(depth).where(settled.counts[weight] > 1, ZERO)
        for weight in uses.input_dependent
        if depth > 1
    }
    settled = settled.raise_to(repeated, copies)
    return raise_to_calls(inputs, passes, settled) if settled.notes.unproven else settled


def settle_growth(inputs: ModelInputs, weights: ModelWeights, by_length: dict[int, UseCounts]) -> SettledUses:
    """The uses at the shortest length if further uses of longer ones belong to other positions, else the most."""
    base, most = first_uses(by_length.values()), max_uses(by_length.values())
    growing = [weight for weight in most if weights.counts(weight) and (most[weight] > base[weight]).any()]
    # The weights whose further uses belong to other positions at every length checked so far.
    explained = set(growing)
    for length, counts in by_length.items():
        base_lengths = {
            weight: min(shorter for shorter in by_length if weight in by_length[shorter])
            for weight in explained
            if weight in counts and (counts[weight] > base[weight]).any()
        }
        if base_lengths and length > 2:
            explained -= set(base_lengths) - explained_weights(inputs, weights, length, base_lengths)
    notes, doubts = [], []
    if explained:
        names = weights.join_names(weight for weight in growing if weight in explained)
        notes.append(
            f"{names}: used again in longer inputs only for other {inputs.unit}s (recurrence over time or chunks), "
            "which is no reuse"
        )
    if unexplained := [weight for weight in growing if weight not in explained]:
        doubts.append(
            f"{weights.join_names(unexplained)}: used up to {max(int(most[weight].max()) for weight in unexplained)} times in "
            f"longer inputs and {max(int(base[weight].max()) for weight in unexplained)} in the shortest, on the same "
            f"{inputs.unit}s; the most uses count"
        )
    counts = {**most, **{weight: base[weight] for weight in explained}}
    return SettledUses(counts, Notes(tuple(notes), tuple(doubts)))


def settle_batch(inputs: ModelInputs, passes: TracedPasses, uses: Uses, settled: SettledUses) -> SettledUses:
    """A weight that a batch uses more often than a single row does must take activations of other rows."""
    batch_inputs = inputs.batched(passes.row_length)
    batch = settle_growth(batch_inputs, passes.weights, uses.by_rows)
    higher = {
        weight: times
        for weight, times in batch.counts.items()
        if weight not in settled.counts or (times > uses.by_rows[1].get(weight, ZERO)).any()
    }
    settled = settled.raise_to(higher).add_notes(batch.notes)
    traces_by_rows = {1: passes.by_length[passes.row_length], BATCH_ROWS: passes.batch}
    return raise_to_activations(batch_inputs, passes.weights, traces_by_rows, settled, {})


def raise_to_filled(passes: TracedPasses, uses: Uses, settled: SettledUses) -> SettledUses:
    """Raise uses to the count of the passes in which selections take all elements or none."""
    doubts = [
        f"{passes.weights.name(weight)}: used up to {int(times.max())} times where data decides how many elements a tensor has "
        f"({join_names(passes.selections)}); the most uses count"
        for weight, times in uses.filled.items()
        if passes.weights.counts(weight) and (times > settled.counts.get(weight, times.clamp_max(1))).any()
    ]
    return settled.raise_to(uses.filled, doubts)


def raise_to_calls(inputs: ModelInputs, passes: TracedPasses, settled: SettledUses) -> SettledUses:
    """If tracing is incomplete, a weight without traced uses counts as often as the shortest input calls its module."""
    calls_by_weight: UseCounts = {}
    for storage in passes.weights.storages:
        parameters = [name for name, _ in storage.tensors if name in passes.weights.parameters]
        modules = {id(inputs.model.get_submodule(name.rpartition(".")[0])) for name in parameters}
        calls = max(
            sum(trace.module_calls.get(module, 0) for module in modules)
            for trace in passes.by_length[min(passes.by_length)]
        )
        if calls > 1 and storage.weight not in settled.counts:
            calls_by_weight[storage.weight] = torch.tensor(calls, dtype=torch.int32)
    doubts = [
        f"{passes.weights.name(weight)}: no use is traced, but its module is called {int(calls)} times"
        for weight, calls in calls_by_weight.items()
    ]
    return settled.raise_to(calls_by_weight, doubts)
