"""Decides whether the further uses of a weight in a longer input belong to further positions.

Input: a model, and the weights that a longer input uses more often. Output: those whose further uses are explained.
The input is changed from a position on, and the activations that met the weight are compared: those that change belong to
that position or a later one. A weight is explained if no run of positions meets one of its elements more often than the
length of the run times the uses in the short input. A state that starts from zeros lags by one position, so a run may
exceed that by the uses of one position, except at the end.
Note: this needs a causal model. Where every activation depends on the complete input nothing is explained, and the larger
count is used.
"""

from __future__ import annotations

import torch
from torch import Tensor

from smalltale.counting.inputs import ModelInputs
from smalltale.counting.passes import trace_with_values
from smalltale.counting.tracing.trace import Trace
from smalltale.counting.tracing.weight_regions import ALL, Weight
from smalltale.counting.weights import ModelWeights
from smalltale.model.architectures import FORWARD_ERRORS

SEGMENTS = 4
MAX_SINGLE_POSITIONS = 8
"""Up to this length every position is a segment of its own."""


def explained_weights(
    inputs: ModelInputs, weights: ModelWeights, length: int, base_lengths: dict[Weight, int]
) -> set[Weight]:
    """The weights that each position uses at `length` no more often than at their base length.

    base_lengths: weight -> the shortest length at which it is used.
    """
    if inputs.on_meta:
        return set()
    segments = length if length <= MAX_SINGLE_POSITIONS else SEGMENTS
    bounds = [length * segment // segments for segment in range(segments + 1)]
    keep = set(base_lengths)
    try:
        plain = trace_with_values(inputs, weights, length, keep_data=keep)
        changed = [
            trace_with_values(inputs, weights, length, seed=1, start=start, keep_data=keep)
            for start in bounds[:-1]
        ]
        short = {
            base: trace_with_values(inputs, weights, base, keep_data=keep)
            for base in set(base_lengths.values())
        }
    except FORWARD_ERRORS:
        return set()
    if any(signature(trace) != signature(plain) for trace in changed):
        return set()
    segments_by_use = [last_affected_segments(number, plain, changed) for number in range(len(plain.uses))]
    met_by_segment = [
        [sum(int((operand == segment).sum()) for operand in operands) for operands in segments_by_use]
        for segment in range(segments)
    ]
    explained = set()
    for weight, base in base_lengths.items():
        met_in_short = [sum(data.numel() for data in use.data) for use in short[base].uses]
        allowed = sum_by_element(short[base], weight, met_in_short) / base
        excess, most = torch.zeros(()), torch.zeros(())
        for segment, met in enumerate(met_by_segment):
            allowed_in_segment = allowed * (bounds[segment + 1] - bounds[segment])
            excess = (excess + sum_by_element(plain, weight, met) - allowed_in_segment).clamp_min(0)
            most = torch.maximum(most, excess)
        if bool((most <= allowed + 0.5).all() and (excess <= 0.5).all()):
            explained.add(weight)
    return explained


def signature(trace: Trace) -> list[tuple[object, ...]]:
    """The operators of a trace in order, with the shapes of their data."""
    return [(use.operator, *(tuple(data.shape) for data in use.data)) for use in trace.uses]


def last_affected_segments(number: int, plain: Trace, changed: list[Trace]) -> list[Tensor]:
    """For each element of a use's data, the last segment whose change affects it, -1 for none."""
    segments_by_operand = []
    for operand, data in enumerate(plain.uses[number].data):
        segments = torch.full(data.shape, -1, dtype=torch.int16)
        for segment, trace in enumerate(changed):
            changed_data = trace.uses[number].data[operand]
            same = changed_data == data
            if data.is_floating_point():
                same |= changed_data.isnan() & data.isnan()
            segments[~same.cpu()] = segment
        segments_by_operand.append(segments)
    return segments_by_operand


def sum_by_element(trace: Trace, weight: Weight, met_by_use: list[int]) -> Tensor:
    """The sum of met_by_use (data elements that a use meets) over the uses of each element of `weight`."""
    total = torch.zeros((), dtype=torch.float32)
    for use, met in zip(trace.uses, met_by_use, strict=True):
        for mask in (mask for used_weight, mask in use.weights if used_weight is weight):
            total = total + met if mask is ALL else total.expand(weight.elements) + mask.float() * met
    return total
