"""Counts the uses of each weight element in one forward pass, and merges the counts of several passes.

Input: Traces of one length. Output: UseCounts.
A look-up by token ids and the one product that ends in the output are embedding and decoder, and count once for the
pair. Any other look-up and product of one weight are two uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from smalltale.counting.tracing.activations import Activations
from smalltale.counting.tracing.trace import Trace, WeightUse
from smalltale.counting.tracing.weight_regions import ALL, Mask, Operand, Weight, union, weights_behind

UseCounts = dict[Weight, Tensor]
"""Uses by weight, int32: () if equal for all elements, else one number per element. A missing weight is not used."""
Part = tuple[list[tuple[Weight, Mask]], int]
"""A part of a WeightUse: weights with the mask of the elements used, and how often these are used."""
ZERO = torch.zeros((), dtype=torch.int32)


def count_uses_in(trace: Trace) -> UseCounts:
    """Operators in which each weight met data; an embedding and its decoder are one."""
    return sum_with_pairs(trace, [[(use.weights, 1)] for use in trace.uses])


def count_uses_by_activation(trace: Trace, traces: list[Trace]) -> UseCounts:
    """Uses in an input of one position: as `count_uses_in`, but each different activation that a weight met is a use."""
    return sum_with_pairs(
        trace,
        [split_use(use, matches, max(1, use.data_products)) for use, matches in match_uses(trace, traces)],
    )


def count_activations(trace: Trace, traces: list[Trace]) -> UseCounts:
    """Different activations that each element met outside look-ups.

    An activation that is the same in all `traces` does not depend on the input, so it belongs to no position.
    """
    return sum_parts(
        part
        for use, matches in match_uses(trace, traces)
        if use.kind != "lookup"
        for part in split_use(use, matches)
    )


def count_activations_by_shape(trace: Trace) -> UseCounts:
    """An upper bound of `count_activations` from shapes: activations differ unless a stride of 0 repeats them."""
    return sum_parts(
        part
        for use in trace.uses
        if use.kind != "lookup"
        for part in (
            [(use.weights, 1)]
            if use.activations is None
            else split_by_activation(use, use.activations, use.activations.shape_ids)
        )
    )


def sum_parts(parts: Iterable[Part]) -> UseCounts:
    counts: UseCounts = {}
    for weights, times in parts:
        for weight, mask in weights:
            add_uses(counts, weight, mask, times)
    return counts


def sum_with_pairs(trace: Trace, parts_by_use: list[list[Part]]) -> UseCounts:
    """The sum of the parts, with an embedding and its decoder as one use."""
    decoders = decoder_uses(trace)
    embedding_counts, decoder_counts, other_counts = UseCounts(), UseCounts(), UseCounts()
    for use, parts in zip(trace.uses, parts_by_use, strict=True):
        counts = embedding_counts if use.kind == "lookup" and use.from_ids else other_counts
        for weights, times in parts:
            for weight, mask in weights:
                add_uses(decoder_counts if (use, weight) in decoders else counts, weight, mask, times)
    for weight in embedding_counts.keys() | decoder_counts.keys():
        embedding, decoder = embedding_counts.get(weight, ZERO), decoder_counts.get(weight, ZERO)
        uses = embedding + decoder - ((embedding > 0) & (decoder > 0)).int()
        other_counts[weight] = other_counts.get(weight, ZERO) + uses
    return other_counts


def decoder_uses(trace: Trace) -> set[tuple[WeightUse, Weight]]:
    """Products that end in the output and compute each output from exactly the elements of one looked-up row."""
    tables: dict[Weight, list[Operand]] = {}
    for use in trace.uses:
        if use.kind == "lookup" and use.from_ids and use.first_row is not None:
            for weight, _ in use.weights:
                tables.setdefault(weight, []).append(use.first_row)
    return {
        (use, weight)
        for use in trace.uses
        if use.kind == "product" and use.is_output and use.first_row is not None
        for weight, _ in use.weights
        if any(is_same_row(weight, row, use.first_row) for row in tables.get(weight, []))
    }


def is_same_row(weight: Weight, row: Operand, column: Operand) -> bool:
    """Whether a product's first output uses exactly the elements of one row of the table; `row` is the table's first."""
    width = row.region.numel()
    if row.source is column.source is weight:
        row_region, column_region = row.region.without_repeats(), column.region.without_repeats()
        offset = column_region.offset - row_region.offset
        return row_region[:2] == column_region[:2] and offset % width == 0
    column_mask, row_mask = elements_behind(column, weight), elements_behind(row, weight)
    if column_mask is ALL or row_mask is ALL:
        return column_mask is row_mask
    if torch.equal(column_mask, row_mask):
        return True
    shift = int(column_mask.int().argmax()) - int(row_mask.int().argmax())
    moved = row.region._replace(offset=row.region.offset + shift)
    if moved.offset < 0 or moved.offset + width > row.source.elements or shift % width:
        return False
    moved_mask = elements_behind(row._replace(region=moved), weight)
    return moved_mask is not ALL and torch.equal(column_mask, moved_mask)


def elements_behind(operand: Operand, weight: Weight) -> Mask:
    return dict(weights_behind([operand])).get(weight, ALL)


def match_uses(trace: Trace, traces: list[Trace]) -> Iterator[tuple[WeightUse, list[WeightUse]]]:
    """Each use with the same use in every other pass that ran the same operators."""
    outline = outline_of(trace)
    matching = [match for match in traces if match is not trace and outline_of(match) == outline]
    for number, use in enumerate(trace.uses):
        yield use, [match.uses[number] for match in matching]


def outline_of(trace: Trace) -> list[object]:
    return [
        (use.operator, use.location, None if use.activations is None else use.activations.shape_ids.shape)
        for use in trace.uses
    ]


def split_use(use: WeightUse, matches: list[WeightUse], least: int = 1) -> list[Part]:
    """The parts of a use: one use per different activation that an element met, at least `least`."""
    activations = use.activations
    if activations is None or (use.kind == "lookup" and not use.from_ids):
        return [(use.weights, least)]
    fingerprints = activations.shape_ids if activations.fingerprints is None else activations.fingerprints
    input_dependent = fingerprints != 0
    if activations.fingerprints is not None and matches:
        varies = torch.zeros_like(input_dependent)
        for match in matches:
            assert match.activations is not None
            varies |= fingerprints != match.activations.fingerprints
        input_dependent &= varies
    if use.kind == "lookup":
        return [(use.weights, max(least, int(input_dependent.sum())))]
    return split_by_activation(use, activations, torch.where(input_dependent, fingerprints, 0.0), least)


def split_by_activation(
    use: WeightUse, activations: Activations, fingerprints: Tensor, least: int = 1
) -> list[Part]:
    """Parts whose counts add up, per element, to the different activations that it met; at least `least` if there is one.

    fingerprints: (entries, rows), 0 for activations that do not count.
    """
    different = torch.unique(fingerprints[fingerprints != 0])
    if len(different) <= 1:
        return [(use.weights, least)]
    entries = [torch.unique(entry[entry != 0]) for entry in fingerprints]
    sizes = {len(entry) for entry in entries}
    disjoint = len(different) == sum(len(entry) for entry in entries)
    matrices = activations.matrices
    if matrices is None or sizes == {len(different)}:  # All weights meet all activations.
        return [(use.weights, len(different))]
    # Each entry has its own matrix and its own activations: no element meets those of another entry.
    if disjoint and len(sizes) == 1 and entries_are_disjoint(matrices):
        return [(use.weights, sizes.pop())]
    entry_weights = [
        weights_behind([Operand(matrices.source, matrices.region.select(0, entry))])
        for entry in range(len(entries))
    ]
    in_matrices = {weight for weights in entry_weights for weight, _ in weights}
    parts: list[Part] = [([pair for pair in use.weights if pair[0] not in in_matrices], 1)]
    if disjoint:
        return parts + [(weights, len(entry)) for weights, entry in zip(entry_weights, entries, strict=True)]
    # Entries share activations: one part per activation, with the elements of all matrices that it meets.
    for activation in different:
        masks: dict[Weight, Mask] = {}
        for entry in torch.nonzero((fingerprints == activation).any(1)).flatten().tolist():
            for weight, mask in entry_weights[entry]:
                masks[weight] = union(masks[weight], mask) if weight in masks else mask
        parts.append((list(masks.items()), 1))
    return parts


def entries_are_disjoint(matrices: Operand) -> bool:
    """Whether it is a view of a weight in which no two entries share an element."""
    size, stride, _ = matrices.region
    span = 1 + sum((n - 1) * step for n, step in zip(size[1:], stride[1:], strict=True))
    return isinstance(matrices.source, Weight) and stride[0] >= span


def add_uses(counts: UseCounts, weight: Weight, mask: Mask, times: int) -> None:
    """Add uses of the masked elements in place; a count stays a single number as long as all masks are ALL."""
    count = counts.get(weight, ZERO)
    counts[weight] = count + times if mask is ALL else count.expand(weight.elements) + mask.int() * times


def max_uses(counts_by_pass: Iterable[UseCounts]) -> UseCounts:
    """The most uses of each element over several passes."""
    most: UseCounts = {}
    for counts in counts_by_pass:
        for weight, times in counts.items():
            most[weight] = torch.maximum(most[weight], times) if weight in most else times
    return most


def first_uses(counts_by_pass: Iterable[UseCounts]) -> UseCounts:
    """The uses of each element in the first pass that uses it at all."""
    first: UseCounts = {}
    for counts in counts_by_pass:
        for weight, times in counts.items():
            first[weight] = torch.where(first[weight] > 0, first[weight], times) if weight in first else times
    return first


def differing_weights(counts_by_pass: list[UseCounts]) -> set[Weight]:
    """Weights with an element whose uses differ between two passes that both use it."""
    differing = set()
    for weight in {weight for counts in counts_by_pass for weight in counts}:
        most, *remaining = [counts[weight] for counts in counts_by_pass if weight in counts]
        for times in remaining:
            if ((times != most) & (times > 0) & (most > 0)).any():
                differing.add(weight)
            most = torch.maximum(most, times)
    return differing
