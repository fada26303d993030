"""Raises the uses of weights that meet more activations in a longer input than positions times uses.

Input: traces of one model at several lengths, and settled uses. Output: corrected uses with notes.
uses.py covers inputs of one position. A model may stack the iterations of a loop (in a batch, along the sequence) only in
longer inputs, or only for several rows; then a weight meets more activations than there are positions, and each is a use.
Note: a position that a model adds after the text depends on the input, so it looks like a stacked iteration and counts as one.
"""

from __future__ import annotations

import contextlib

from smalltale.counting.inputs import SHORT_LENGTHS, ModelInputs
from smalltale.counting.passes import trace_with_values
from smalltale.counting.report import SettledUses
from smalltale.counting.tracing import use_counts
from smalltale.counting.tracing.trace import Trace
from smalltale.counting.tracing.use_counts import ZERO, UseCounts
from smalltale.counting.weights import ModelWeights
from smalltale.model.architectures import FORWARD_ERRORS


def raise_to_activations(
    inputs: ModelInputs,
    weights: ModelWeights,
    traces_by_length: dict[int, list[Trace]],
    settled: SettledUses,
    shared: UseCounts,
) -> SettledUses:
    """Raise uses to activations per position; lengths count positions, or rows if `inputs` is batched. shared: as in Uses."""
    raised, previous_length, previous_bounds = settled, 0, UseCounts()
    for length, traces in traces_by_length.items():
        upper_bounds = use_counts.count_activations_by_shape(traces[0])
        growth = {
            weight: bound - previous_bounds.get(weight, ZERO)
            for weight, bound in upper_bounds.items()
            if weights.counts(weight)
        }
        if length > SHORT_LENGTHS[-1]:
            step = length - previous_length
            if not any((bound > step * settled.counts[weight]).any() for weight, bound in growth.items()):
                continue  # Too few activations for a further use, so no pass with values is needed.
            with contextlib.suppress(*FORWARD_ERRORS):
                traces = [trace_with_values(inputs, weights, length, seed=seed) for seed in range(2)]
        if length == 2:
            raised = raised.raise_to({}, added_positions(weights, growth, settled.counts, shared))
        if length > 1:
            activations = use_counts.max_uses(use_counts.count_activations(trace, traces) for trace in traces)
            raised = raised.raise_to(*uses_per_position(inputs, weights, length, activations, settled.counts))
        previous_length, previous_bounds = length, upper_bounds
    return raised


def added_positions(
    weights: ModelWeights, growth: UseCounts, counts: UseCounts, shared: UseCounts
) -> list[str]:
    """Doubts about weights that meet fewer activations for the second position than for the first.

    Some of the first ones may belong to positions that the model adds.
    """
    return [
        f"{weights.name(weight)}: the first position brings {int(counts[weight].max())} activations to it, a second one "
        "fewer; they may be positions that the model adds after the text, and are taken as uses"
        for weight, times in shared.items()
        if weight in growth and ((growth[weight] < counts[weight]) & (counts[weight] > times)).any()
    ]


def uses_per_position(
    inputs: ModelInputs, weights: ModelWeights, length: int, activations: UseCounts, counts: UseCounts
) -> tuple[UseCounts, list[str]]:
    """Activations per position, rounded up, of the weights for which these exceed `counts`; with a doubt for each."""
    positions = length * inputs.unit_positions
    uses = {weight: (times + positions - 1) // positions for weight, times in activations.items()}
    higher = [weight for weight in uses if weights.counts(weight) and (uses[weight] > counts[weight]).any()]
    doubts = [
        f"{weights.name(weight)}: over {length} {inputs.unit}s it meets {int(activations[weight].max()):,} different "
        f"activations, {int(uses[weight].max())} for each position, and {int(counts[weight].max())} are explained"
        for weight in higher
    ]
    return {weight: uses[weight] for weight in higher}, doubts
