"""Uses of each weight element in one forward pass, and over several.

In: Traces of one length. Out: for each weight a tensor of uses, () where all its elements are alike, else one number an
element.
Beware: a look-up by token ids and the one product that ends in the output are embedding and decoder, and count once for
the pair. Any other look-up and product of one weight are two uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from smalltale.counting.tracing.activations import Vectors
from smalltale.counting.tracing.trace import Meeting, Trace
from smalltale.counting.tracing.weight_regions import ALL, Mask, Operand, Weight, union, weights_behind

Uses = dict[Weight, Tensor]
"""Uses by weight; one that is missing was not used."""
Key = TypeVar("Key", Weight, tuple[Weight, str])
Part = tuple[list[tuple[Weight, Mask]], int]
"""Weights with the elements of them that were used, and how often."""


def uses_of(trace: Trace) -> Uses:
    """Meetings of every weight that met data, the embedding and decoder pair taken as one."""
    return less_pairs(trace, [(meeting, [(meeting.weights, 1)]) for meeting in trace.meetings])


def uses_by_position(trace: Trace, others: list[Trace]) -> Uses:
    """The same for an input of one position, each different activation of it that a weight met taken as a use."""
    several = [
        (meeting, parts_of(meeting, partners, max(1, meeting.applied)))
        for meeting, partners in beside(trace, others)
    ]
    return less_pairs(trace, several)


def activations_of(trace: Trace, others: list[Trace]) -> Uses:
    """How many different activations each element met, but in look-ups; those alike in all of `others` are no position's."""
    parts = (
        parts_of(meeting, partners) for meeting, partners in beside(trace, others) if meeting.kind != "lookup"
    )
    return summed(part for several in parts for part in several)


def activations_by_shape(trace: Trace) -> Uses:
    """The same, all taken as different."""
    several = (
        [(meeting.weights, 1)]
        if meeting.vectors is None
        else parts_met(meeting, meeting.vectors, meeting.vectors.by_shape)
        for meeting in trace.meetings
        if meeting.kind != "lookup"
    )
    return summed(part for parts in several for part in parts)


def summed(parts: Iterable[Part]) -> Uses:
    found: Uses = {}
    for weights, times in parts:
        for weight, mask in weights:
            add(found, weight, mask, weight.elements, times)
    return found


def less_pairs(trace: Trace, parts: list[tuple[Meeting, list[Part]]]) -> Uses:
    """Sum the parts; of an embedding and its decoder, one."""
    decoders = decoders_of(trace)
    counters: dict[tuple[Weight, str], Tensor] = {}
    for meeting, several in parts:
        for weights, times in several:
            for weight, mask in weights:
                kind = "other"
                if meeting.kind == "lookup" and meeting.from_ids:
                    kind = "embedding"
                elif (meeting, weight) in decoders:
                    kind = "decoder"
                add(counters, (weight, kind), mask, weight.elements, times)
    zero = torch.zeros((), dtype=torch.int32)
    uses: Uses = {}
    for weight in {weight for weight, _ in counters}:
        one, two, others = (counters.get((weight, kind), zero) for kind in ("embedding", "decoder", "other"))
        uses[weight] = one + two + others - ((one > 0) & (two > 0)).int()
    return uses


def decoders_of(trace: Trace) -> set[tuple[Meeting, Weight]]:
    """Products that give the output, each output number made of just the elements that one looked-up row has."""
    tables: dict[Weight, list[Operand]] = {}
    for meeting in trace.meetings:
        if meeting.kind == "lookup" and meeting.from_ids and meeting.slice is not None:
            for weight, _ in meeting.weights:
                tables.setdefault(weight, []).append(meeting.slice)
    found = set()
    for meeting in trace.meetings:
        if meeting.kind == "product" and meeting.ends and meeting.slice is not None:
            for weight, _ in meeting.weights:
                if any(same_row(weight, row, meeting.slice) for row in tables.get(weight, [])):
                    found.add((meeting, weight))
    return found


def same_row(weight: Weight, row: Operand, column: Operand) -> bool:
    """Whether a product's first output is made of the elements of a row of the table, the first or the one it begins in."""
    if row.source is column.source is weight:
        one, two = row.region.proper(), column.region.proper()
        return one[:2] == two[:2] and (two.offset - one.offset) % row.region.numel() == 0
    wanted, first = elements_behind(column, weight), elements_behind(row, weight)
    if wanted is ALL or first is ALL:
        return wanted is first
    if torch.equal(wanted, first):
        return True
    shift = int(wanted.int().argmax()) - int(first.int().argmax())
    width = row.region.numel()
    moved = row.region._replace(offset=row.region.offset + shift)
    if moved.offset < 0 or moved.offset + width > row.source.elements or shift % width:
        return False
    other = elements_behind(row._replace(region=moved), weight)
    return other is not ALL and torch.equal(wanted, other)


def elements_behind(operand: Operand, weight: Weight) -> Mask:
    return next((mask for each, mask in weights_behind([operand]) if each is weight), ALL)


def beside(trace: Trace, others: list[Trace]) -> Iterator[tuple[Meeting, list[Meeting]]]:
    """Each meeting with the same one of other inputs, where the passes went alike."""
    alike = [each for each in others if each is not trace and shape_of(each) == shape_of(trace)]
    for number, meeting in enumerate(trace.meetings):
        yield meeting, [each.meetings[number] for each in alike]


def shape_of(trace: Trace) -> list[object]:
    return [
        (each.operator, each.place, None if each.vectors is None else each.vectors.marks.shape)
        for each in trace.meetings
    ]


def parts_of(meeting: Meeting, partners: list[Meeting], times: int = 1) -> list[Part]:
    """How often each element was used: once for each different activation that it met, `times` at least."""
    vectors = meeting.vectors
    if vectors is None or (meeting.kind == "lookup" and not meeting.from_ids):
        return [(meeting.weights, times)]
    marks = vectors.marks if vectors.measured else vectors.by_shape
    wanted = marks != 0
    if vectors.measured and partners:
        varying = torch.zeros_like(wanted)
        for each in partners:
            assert each.vectors is not None
            varying |= marks != each.vectors.marks
        wanted &= varying
    if meeting.kind == "lookup":
        return [(meeting.weights, max(times, int(wanted.sum())))]
    return parts_met(meeting, vectors, torch.where(wanted, marks, 0.0), times)


def parts_met(meeting: Meeting, vectors: Vectors, marks: Tensor, least: int = 1) -> list[Part]:
    """The elements that each different activation met; marks (entries, rows), 0 for one that is left out."""
    different = torch.unique(marks[marks != 0])
    if len(different) <= 1:
        return [(meeting.weights, least)]
    entries = [torch.unique(each[each != 0]) for each in marks]
    sizes = {len(each) for each in entries}
    alone = len(different) == sum(len(each) for each in entries)
    if vectors.matrix is None or sizes == {len(different)}:
        return [(meeting.weights, len(different))]
    if alone and len(sizes) == 1 and apart(vectors.matrix):
        return [(meeting.weights, sizes.pop())]
    own = [
        weights_behind([Operand(vectors.matrix.source, vectors.matrix.region.at(0, n))])
        for n in range(len(entries))
    ]
    inside = {weight for weights in own for weight, _ in weights}
    parts: list[Part] = [([each for each in meeting.weights if each[0] not in inside], 1)]
    if alone:
        return parts + [(weights, len(each)) for weights, each in zip(own, entries, strict=True)]
    for value in different:
        together: dict[Weight, Mask] = {}
        for entry in torch.nonzero((marks == value).any(1)).flatten().tolist():
            for weight, mask in own[entry]:
                together[weight] = union(together[weight], mask) if weight in together else mask
        parts.append((list(together.items()), 1))
    return parts


def apart(matrix: Operand) -> bool:
    """Whether no two entries of a weight's own view share an element."""
    region = matrix.region
    span = 1 + sum(
        (size - 1) * stride for size, stride in zip(region.size[1:], region.stride[1:], strict=True)
    )
    return isinstance(matrix.source, Weight) and region.stride[0] >= span


def add(counters: dict[Key, Tensor], key: Key, mask: Mask, elements: int, times: int) -> None:
    """More uses of the masked elements; a counter stays a single number as long as it can."""
    old = counters.get(key, torch.zeros((), dtype=torch.int32))
    if mask is ALL:
        counters[key] = old + times
    else:
        counters[key] = old.expand(elements) + mask.int() * times


def largest(several: Iterable[Uses]) -> Uses:
    """The most uses of each element over several passes."""
    found: Uses = {}
    for uses in several:
        for weight, times in uses.items():
            found[weight] = torch.maximum(found[weight], times) if weight in found else times
    return found


def first_found(several: Iterable[Uses]) -> Uses:
    """The uses of each element in the first pass that uses it at all."""
    found: Uses = {}
    for uses in several:
        for weight, times in uses.items():
            found[weight] = torch.where(found[weight] > 0, found[weight], times) if weight in found else times
    return found


def differing(several: list[Uses]) -> set[Weight]:
    """Weights of which an element is used more than once in one pass and another number of times in another."""
    found = set()
    for weight in {weight for uses in several for weight in uses}:
        each = [uses[weight] for uses in several if weight in uses]
        top = each[0]
        for times in each[1:]:
            if bool(((times != top) & (times > 0) & (top > 0)).any()):
                found.add(weight)
            top = torch.maximum(top, times)
    return found
