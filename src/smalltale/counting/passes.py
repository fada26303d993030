"""The trace step: runs and traces the forward passes that a count is based on.

Input: a model with inputs (inputs.py), its weights (weights.py). Output: TracedPasses.
Single rows run at lengths 1, 2, 8, a random length and the context; then a batch of rows; then, where data decides how
many elements a tensor has, passes that select all of them and none.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable, Set
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.func import functional_call

from smalltale.counting.inputs import BATCH_ROWS, SHORT_LENGTHS, ModelInputs
from smalltale.counting.report import Notes, join_names
from smalltale.counting.tracing import operator_calls as calls
from smalltale.counting.tracing.trace import Trace
from smalltale.counting.tracing.tracer import trace_forward
from smalltale.counting.tracing.weight_regions import Weight
from smalltale.counting.weights import ModelWeights
from smalltale.errors import SmalltaleError, first_line
from smalltale.model.architectures import FORWARD_ERRORS

SEEDS, SEEDS_IF_BRANCHING = 2, 8


@dataclass(frozen=True)
class TracedPasses:
    """The traces of all forward passes of a model."""

    weights: ModelWeights
    """With the trained tensors that only the passes revealed."""
    by_length: dict[int, list[Trace]]
    """Traces of a single row, by number of positions, shortest first."""
    row_length: int
    """Positions in each row of the batch."""
    batch: list[Trace]
    """Traces of a batch of BATCH_ROWS rows; empty if the model rejects a batch."""
    filled: list[Trace]
    """Traces in which every data-dependent selection selects all elements, or none."""
    selections: tuple[str, ...]
    """Where data selects elements."""
    traces: list[Trace]
    """Those of single rows and of the batch."""
    notes: Notes


def trace_passes(inputs: ModelInputs, weights: ModelWeights) -> TracedPasses:
    """Trace single rows, a batch and filled selections. Raises SmalltaleError if no length works."""
    by_length, weights, doubts = trace_rows(inputs, weights)
    row_length = min(by_length, key=lambda length: abs(length - SHORT_LENGTHS[1]))
    batch_inputs, explained = inputs.batched(row_length), []
    batch, error = collect(trace_pass(batch_inputs, weights, BATCH_ROWS, seed) for seed in range(SEEDS))
    if error:
        explained.append(f"the model rejects a batch of {BATCH_ROWS} rows ({error}); single rows are traced")
    traces = [trace for traces in (*by_length.values(), batch) for trace in traces]
    selections = tuple(dict.fromkeys(location for trace in traces for location in trace.selections))
    # Python may loop over as many elements as data selects.
    filled, error = collect(
        trace_with_values(inputs, weights, length, fill_selections=fill)
        for length in SHORT_LENGTHS
        if selections and length in by_length
        for fill in (True, False)
    )
    if error:
        doubts.append(
            f"data decides how many elements a tensor has at {join_names(selections)}, and with all or none of them the "
            f"forward pass fails ({error})"
        )
    notes = Notes(tuple(explained), (*doubts, *untraced_sources(by_length), *trace_doubts(traces)))
    return TracedPasses(weights, by_length, row_length, batch, filled, selections, traces, notes)


def trace_rows(
    inputs: ModelInputs, weights: ModelWeights
) -> tuple[dict[int, list[Trace]], ModelWeights, list[str]]:
    """Traces of a single row by length, and doubts about lengths at which the forward pass fails.

    Short lengths run with several seeds, with more if the model branches on its input, and length 1 with one more for
    `untraced_sources`. Tensors that a pass reveals as trained are added to the weights.
    """
    context = max(1, inputs.context)
    # A random length, because code could reuse its weights at all lengths but the measured ones.
    random_length = 1 + SHORT_LENGTHS[-1] + secrets.randbelow(max(1, context - SHORT_LENGTHS[-1] - 1))
    lengths = {length for length in (*SHORT_LENGTHS, random_length, context) if length <= context}
    by_length: dict[int, list[Trace]] = {}
    failures: dict[int, Exception] = {}
    short_seeds = SEEDS
    for length in [context] if inputs.fixed_length else sorted(lengths):
        seed = 0
        while seed < (1 if length > SHORT_LENGTHS[-1] else max(short_seeds, SEEDS + (length == 1))):
            try:
                trace = trace_pass(inputs, weights, length, seed)
            except FORWARD_ERRORS as error:
                failures[length] = error
                break
            short_seeds = SEEDS_IF_BRANCHING if trace.branches else short_seeds
            weights = weights.with_unregistered(trace)
            by_length.setdefault(length, []).append(trace)
            seed += 1
    doubts = [
        f"the forward pass at length {length} failed ({describe(error)}); that length is not measured"
        for length, error in failures.items()
    ]
    if not by_length:
        raise SmalltaleError(
            f"the forward pass of {type(inputs.model).__name__} on an input of length {min(failures)} failed: "
            f"{describe(failures[min(failures)])}; give inputs it accepts"
        ) from failures[min(failures)]
    return by_length, weights, doubts


def collect(traces: Iterable[Trace]) -> tuple[list[Trace], str]:
    """Run the passes of a lazy iterable. Returns their traces, or none and the error if a pass fails."""
    try:
        return list(traces), ""
    except FORWARD_ERRORS as error:
        return [], describe(error)


def describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def untraced_sources(by_length: dict[int, list[Trace]]) -> list[str]:
    """Doubts about tensors without a recorded producer that are new in every pass, so that an untraced source makes them."""
    doubts = []
    for traces in by_length.values():
        earlier = {calls.storage_key(tensor) for trace in traces[:-1] for _, tensor, _ in trace.unregistered}
        doubts += [
            f"a tensor of {tensor.numel():,} numbers at {location} has an untraced source (a thread, another library, "
            "state saved by an earlier pass)"
            for _, tensor, location in traces[-1].unregistered
            if len(traces) > SEEDS and calls.storage_key(tensor) not in earlier
        ]
    return doubts


def trace_doubts(traces: list[Trace]) -> list[str]:
    """Doubts about what tracing cannot follow."""
    doubts = list(dict.fromkeys(problem for trace in traces for problem in trace.problems))
    if not all(trace.output_is_data for trace in traces):
        doubts.append("the output does not depend on the input through traceable operators")
    if branches := list(dict.fromkeys(location for trace in traces for location in trace.branches)):
        doubts.append(
            f"the forward pass branches on a number derived from its input at {join_names(branches)}; the most uses over "
            f"{len(traces)} inputs count"
        )
    return doubts


def trace_pass(inputs: ModelInputs, weights: ModelWeights, length: int, seed: int) -> Trace:
    """A pass with values for a short input; for a long one on the meta device, if that gives a complete trace."""
    if length > SHORT_LENGTHS[-1]:
        with contextlib.suppress(*FORWARD_ERRORS):
            trace = trace_on_meta(inputs, weights, length)
            if trace.output_is_data and not trace.problems:
                return trace
    return trace_with_values(inputs, weights, length, seed=seed)


def trace_with_values(
    inputs: ModelInputs,
    weights: ModelWeights,
    length: int,
    seed: int = 0,
    start: int = 0,
    keep_data: Set[Weight] = frozenset(),
    fill_selections: bool | None = None,
) -> Trace:
    """Trace a pass on the device of the weights. keep_data, fill_selections: see trace_forward."""
    if inputs.on_meta:
        return trace_on_meta(inputs, weights, length)
    args, kwargs = inputs.arguments(length, seed, start)
    torch.manual_seed(0)
    forward = partial(inputs.model, *args, **kwargs)
    tensors = list(calls.iter_nested_tensors((args, kwargs)))
    return trace_forward(inputs.model, forward, tensors, weights.by_key, keep_data, fill_selections)


def trace_on_meta(inputs: ModelInputs, weights: ModelWeights, length: int) -> Trace:
    """Trace a pass on the meta device, which reads no weight and computes no values.

    Raises one of FORWARD_ERRORS if the pass needs a value.
    """
    storages: dict[int, Tensor] = {}
    meta_tensors: dict[str, Tensor] = {}
    weights_by_key = dict(weights.by_key)
    # Each module under only one of its names: functional_call would not restore a module that it swaps twice.
    for name, tensor in (
        (f"{module_name}.{own_name}" if module_name else own_name, tensor)
        for module_name, module in inputs.model.named_modules()
        for named_tensors in (module.named_parameters, module.named_buffers)
        for own_name, tensor in named_tensors(recurse=False, remove_duplicate=False)
        if calls.storage_key(tensor) in weights.by_key
    ):
        key = calls.storage_key(tensor)
        if key not in storages:
            storages[key] = torch.empty(calls.storage_elements(tensor), dtype=tensor.dtype, device="meta")
            weights_by_key[calls.storage_key(storages[key])] = weights.by_key[key]
        meta_tensors[name] = storages[key].as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())
    args, kwargs = calls.map_tensors(lambda tensor: tensor.to("meta"), inputs.arguments(length, 0, 0))
    forward = partial(functional_call, inputs.model, meta_tensors, args, kwargs, tie_weights=False)
    tensors = list(calls.iter_nested_tensors((args, kwargs)))
    return trace_forward(inputs.model, forward, tensors, weights_by_key)
