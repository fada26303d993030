"""Are the further uses of a weight in a longer input those of other positions?

In: a model, and the weights that a longer input uses more often. Out: those whose further uses are explained.
The input is changed from a position on, and the activations that met the weight are compared: what changes belongs to
that position or a later one. An element is explained where no run of positions meets it more often than its length times
the uses in the short input; a state that starts from nothing lags by one position, so one is allowed but at the end.
Beware: it takes a causal model; where every activation sees all of the input nothing is explained, and the larger count stands.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils._pytree import tree_map

from smalltale.counting.inputs import Forwards
from smalltale.counting.tracing.operator_calls import all_tensors, elements_of, storage_key
from smalltale.counting.tracing.trace import Trace
from smalltale.counting.tracing.tracer import trace
from smalltale.counting.tracing.weight_regions import ALL, Mask, Weight
from smalltale.model.architectures import FORWARD_ERRORS

SEGMENTS = 4
EXACT = 8
"""Up to this length every position is a segment of its own."""


def traced(
    forwards: Forwards,
    weights: dict[int, Weight],
    length: int,
    seed: int = 0,
    start: int = 0,
    keep: set[Weight] | None = None,
    choose: bool | None = None,
) -> Trace:
    """Watch one forward pass at a length, on the device where the weights are; `choose` as in `trace`."""
    if any(each.is_meta for each in forwards.model.parameters()):
        return traced_by_shape(forwards, weights, length)
    args, kwargs = forwards.arguments(length, seed, start)
    torch.manual_seed(0)
    inputs = list(all_tensors((args, kwargs)))
    return trace(
        forwards.model,
        lambda: forwards.model(*args, **kwargs),
        inputs,
        weights,
        keep.__contains__ if keep else None,
        choose=choose,
    )


def traced_by_shape(forwards: Forwards, weights: dict[int, Weight], length: int) -> Trace:
    """Watch one forward pass over shapes: no weight is read, nothing large is computed.

    Raises one of FORWARD_ERRORS where the pass needs a number.
    """
    twins: dict[int, Tensor] = {}
    named: dict[str, Tensor] = {}
    known = dict(weights)
    model = forwards.model
    # Each module by one of its names: swapped under a second one, its weights would not be put back.
    for name, tensor in (
        (f"{place}.{own}" if place else own, tensor)
        for place, module in model.named_modules()
        for kind in (module.named_parameters, module.named_buffers)
        for own, tensor in kind(recurse=False, remove_duplicate=False)
    ):
        key = storage_key(tensor)
        if key not in weights:
            continue
        if key not in twins:
            twins[key] = torch.empty(elements_of(tensor), dtype=tensor.dtype, device="meta")
            known[storage_key(twins[key])] = weights[key]
        named[name] = twins[key].as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())
    args, kwargs = tree_map(
        lambda each: each.to("meta") if isinstance(each, Tensor) else each, forwards.arguments(length, 0)
    )
    inputs = list(all_tensors((args, kwargs)))
    return trace(
        model,
        lambda: functional_call(model, named, args, kwargs, tie_weights=False),
        inputs,
        known,
        shapes_only=True,
    )


def explained_at(
    forwards: Forwards, weights: dict[int, Weight], length: int, suspects: dict[Weight, int]
) -> set[Weight]:
    """The suspects whose every use at `length` takes, for each position, no more than at their base length.

    suspects: weight -> the shortest length at which it was used.
    """
    starts = (
        list(range(length)) if length <= EXACT else [length * part // SEGMENTS for part in range(SEGMENTS)]
    )
    ends = [*starts[1:], length]
    keep = set(suspects)
    if any(each.is_meta for each in forwards.model.parameters()):
        return set()
    try:
        plain = traced(forwards, weights, length, keep=keep)
        others = [traced(forwards, weights, length, seed=1, start=start, keep=keep) for start in starts]
        short = {base: traced(forwards, weights, base, keep=keep) for base in set(suspects.values())}
    except FORWARD_ERRORS:
        return set()
    if any(not alike(plain, other) for other in others):
        return set()
    owners = [owner_of(number, plain, others) for number in range(len(plain.meetings))]
    found = set()
    for weight, base in suspects.items():
        allowed = activations(short[base], weight, None, 0) / base
        excess, most = torch.zeros(()), torch.zeros(())
        for segment, start in enumerate(starts):
            met = activations(plain, weight, owners, segment)
            excess = (excess + met - allowed * (ends[segment] - start)).clamp_min(0)
            most = torch.maximum(most, excess)
        if bool((most <= allowed + 0.5).all() and (excess <= 0.5).all()):
            found.add(weight)
    return found


def alike(one: Trace, other: Trace) -> bool:
    """Whether two passes made the same meetings in the same order, over data of the same shapes."""
    return [signature(each.operator, each.data) for each in one.meetings] == [
        signature(each.operator, each.data) for each in other.meetings
    ]


def signature(operator: str, data: list[Tensor]) -> tuple[object, ...]:
    return (operator, *(tuple(each.shape) for each in data))


def owner_of(number: int, plain: Trace, others: list[Trace]) -> list[Tensor]:
    """For each data operand of a meeting, the last segment whose change it feels, -1 for none."""
    owners = []
    for place, data in enumerate(plain.meetings[number].data):
        owner = torch.full(data.shape, -1, dtype=torch.int16)
        for segment, other in enumerate(others):
            felt = other.meetings[number].data[place]
            same = (
                (felt == data) | (felt.isnan() & data.isnan()) if data.is_floating_point() else felt == data
            )
            owner[~same.cpu()] = segment
        owners.append(owner)
    return owners


def activations(trace_: Trace, weight: Weight, owners: list[list[Tensor]] | None, segment: int) -> Tensor:
    """How many activations of a segment (all of them without owners) each element of `weight` meets."""
    total = torch.zeros((), dtype=torch.float32)
    for number, meeting in enumerate(trace_.meetings):
        for other, mask in meeting.weights:
            if other is weight:
                if owners is None:
                    met = sum(each.numel() for each in meeting.data)
                else:
                    met = sum(int((each == segment).sum()) for each in owners[number])
                total = weighted(total, mask, met, weight.elements)
    return total


def weighted(total: Tensor, mask: Mask, met: int, elements: int) -> Tensor:
    return total + met if mask is ALL else total.expand(elements) + mask.float() * met
