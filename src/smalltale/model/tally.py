"""Uses of each weight element in one forward pass, and over several.

In: a Trace. Out: for each weight a tensor of uses, () where all its elements are alike, else one number an element.
Beware: a look-up and a matrix product of one element are embedding and decoder, and count once for the pair.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from smalltale.model.marks import ALL, Mask, Weight
from smalltale.model.trace import Meeting, Trace

Uses = dict[Weight, Tensor]
"""Uses by weight; one that is missing was not used."""


def uses_of(trace: Trace) -> Uses:
    """Uses of every weight that met data, the embedding and decoder pair taken as one."""
    by_kind: dict[tuple[Weight, str], Tensor] = {}
    for meeting in trace.meetings:
        for weight, mask in meeting.weights:
            kind = meeting.kind if meeting.kind in {"lookup", "product"} else "other"
            add(by_kind, (weight, kind), mask, weight.elements)
    zero = torch.zeros((), dtype=torch.int32)
    uses: Uses = {}
    for weight in {weight for weight, _ in by_kind}:
        lookups, products, others = (
            by_kind.get((weight, kind), zero) for kind in ("lookup", "product", "other")
        )
        pair = (lookups > 0) & (products > 0)
        uses[weight] = lookups + products + others - pair.int()
    return uses


def add(
    counters: dict[tuple[Weight, str], Tensor], key: tuple[Weight, str], mask: Mask, elements: int
) -> None:
    """One more use of the masked elements; a counter stays a single number as long as it can."""
    old = counters.get(key, torch.zeros((), dtype=torch.int32))
    if mask is ALL:
        counters[key] = old + 1
    else:
        counters[key] = old.expand(elements) + mask.int()


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


def meetings_of(trace: Trace, weight: Weight) -> list[tuple[Meeting, Mask]]:
    """The meetings in which a weight was used, with the elements that were."""
    return [
        (meeting, mask) for meeting in trace.meetings for other, mask in meeting.weights if other is weight
    ]
