"""The uses step: counts the uses of every weight in the traced passes.

Input: TracedPasses. Output: Uses, counts by input length, before the settle step compares them.
A use is an operator call in which a weight meets data. In a row of one position all activations belong to that position, so
each different activation that a weight meets is a use too: iterations of a loop stacked in a batch or along a sequence,
heads that share a matrix.
Note: an activation that is the same for every input (learned tokens before the text) belongs to no position.
"""

from __future__ import annotations

from dataclasses import dataclass

from smalltale.counting.inputs import BATCH_ROWS
from smalltale.counting.passes import TracedPasses
from smalltale.counting.report import Notes
from smalltale.counting.tracing import use_counts
from smalltale.counting.tracing.use_counts import UseCounts, count_uses_in, max_uses
from smalltale.counting.tracing.weight_regions import Weight


@dataclass(frozen=True)
class Uses:
    """The most uses of each weight element per kind of input."""

    by_length: dict[int, UseCounts]
    """For a single row, by number of positions."""
    by_rows: dict[int, UseCounts]
    """For one row and for the batch, by number of rows; empty without a batch."""
    filled: UseCounts
    """With filled selections."""
    shared: UseCounts
    """For weights that meet several activations of one position in one operator: how many operators use them."""
    input_dependent: tuple[Weight, ...]
    """Trained weights whose uses differ between inputs of one length."""
    notes: Notes


def count_uses(passes: TracedPasses) -> Uses:
    """Count the uses of each weight in all passes."""
    weights = passes.weights
    by_pass = {length: list(map(count_uses_in, traces)) for length, traces in passes.by_length.items()}
    by_length = {length: max_uses(counts) for length, counts in by_pass.items()}
    differing = set().union(*map(use_counts.differing_weights, by_pass.values()))
    input_dependent = tuple(
        weight for weight in weights.by_weight if weight in differing and weights.counts(weight)
    )
    by_rows = {1: by_length[passes.row_length], BATCH_ROWS: max_uses(map(count_uses_in, passes.batch))}
    shared: UseCounts = {}
    if 1 in by_length:
        by_operator, traces = by_length[1], passes.by_length[1]
        by_activation = [use_counts.count_uses_by_activation(trace, traces) for trace in traces]
        by_length[1] = max_uses([by_operator, *by_activation])
        shared = {
            weight: by_operator[weight]
            for weight, times in by_length[1].items()
            if weights.counts(weight) and (times > by_operator[weight]).any()
        }
    return Uses(
        by_length=by_length,
        by_rows=by_rows if passes.batch else {},
        filled=max_uses(map(count_uses_in, passes.filled)),
        shared=shared,
        input_dependent=input_dependent,
        notes=describe_uses(passes, shared, input_dependent),
    )


def describe_uses(passes: TracedPasses, shared: UseCounts, input_dependent: tuple[Weight, ...]) -> Notes:
    """Notes on shared activations, on weights turned into data, and on weights that only some inputs use."""
    weights, traces = passes.weights, passes.by_length.get(1, [])
    explained, doubts = [], []
    if shared:
        explained.append(
            f"{weights.join_names(shared)}: meets several different activations of one position in one operator (loop "
            "iterations stacked in a batch, heads that share a matrix); each is a use"
        )
        if any(use.activations and use.activations.fingerprints is None for use in traces[0].uses):
            doubts.append("activations are distinguished by shape alone, as the weights have no values")
    products_of_data = [use for trace in traces for use in trace.uses if use.data_products > 1]
    turned = dict.fromkeys(
        weight for use in products_of_data for weight, _ in use.weights if weights.counts(weight)
    )
    if turned:
        doubts.append(
            f"{weights.join_names(turned)}: turned into data (looked up, or scaled by the input) and then multiplied with "
            "other data more than once; each product is taken as a use"
        )
    if input_dependent:
        doubts.append(f"{weights.join_names(input_dependent)}: some inputs use it more often than others")
    return Notes(tuple(explained), tuple(doubts))
