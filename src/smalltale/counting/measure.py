"""The uses of every weight of a model, measured over its forward passes.

In: how to call a model (forwards.py), its weights (weights.py). Out: Findings.
Passes are watched at lengths 1, 2, 8 and the context. Uses at length 1 stand where every further use of a longer input is
another position's; else the largest do, and a line says why they are not proven.
Beware: at length 1 every activation is the one position's (stacks.py); longer inputs are held to that.
"""

from __future__ import annotations

import contextlib
import secrets

import torch
from torch import nn

from smalltale.counting.inputs import ROWS, SHORT_LENGTHS, Forwards
from smalltale.counting.recurrence import explained_at, traced, traced_by_shape
from smalltale.counting.report import Findings, few
from smalltale.counting.shared_activations import stacked, stacks_in_longer_inputs
from smalltale.counting.tracing.operator_calls import storage_key
from smalltale.counting.tracing.trace import Trace
from smalltale.counting.uses import Uses, differing, first_found, largest, uses_of
from smalltale.counting.weights import Ledger
from smalltale.errors import SmalltaleError, first_line
from smalltale.model.architectures import FORWARD_ERRORS

SEEDS, SEEDS_WHERE_IT_BRANCHES = 2, 8


def watch(forwards: Forwards, ledger: Ledger, depth: int = 1) -> Findings:
    """Trace the passes and settle the uses of every weight.

    depth: the declared most rounds of a loop whose length depends on its data.
    """
    findings = Findings()
    passes = all_passes(forwards, ledger, findings)
    from_nowhere(passes, findings)
    by_length: dict[int, Uses] = {}
    for length, traces in passes.items():
        several = [uses_of(each) for each in traces]
        findings.adaptive |= {weight for weight in differing(several) if ledger.counts(weight)}
        if length == 1:
            several += stacked(traces, largest(several), ledger, findings)
        by_length[length] = largest(several)
    findings.uses = settle(forwards, ledger, by_length, findings)
    stacks_in_longer_inputs(forwards, ledger, passes, findings)
    length = min(passes, key=lambda each: abs(each - SHORT_LENGTHS[1]))
    several_rows(forwards, length, passes[length], ledger, findings)
    where_data_picks(forwards, ledger, findings)
    doubts(findings, ledger)
    for copy, name in ledger.twins(findings.uses, findings.traces):
        findings.unproven.append(
            f"{copy} is not counted and holds the very numbers of {name}; if it is a copy, its uses are reuse"
        )
    if depth > 1:
        for weight in findings.adaptive:
            times = findings.uses[weight]
            findings.uses[weight] = torch.where(times > 1, times.clamp_min(depth), times)
    if findings.unproven:
        by_calls(forwards.model, ledger, findings)
    return findings


def all_passes(forwards: Forwards, ledger: Ledger, findings: Findings) -> dict[int, list[Trace]]:
    """Traces at every length that works, over several inputs where the length is short."""
    context = max(1, forwards.context)
    lengths = (
        [context]
        if forwards.fixed
        else sorted({each for each in (*SHORT_LENGTHS, drawn(context), context) if each <= context})
    )
    passes: dict[int, list[Trace]] = {}
    failed: dict[int, BaseException] = {}
    branches = False
    for length in lengths:
        number = 0
        while number < seeds_for(length, branches):
            try:
                seen = one_pass(forwards, ledger, length, number)
            except FORWARD_ERRORS as error:
                failed[length] = error
                break
            branches |= bool(seen.branches)
            ledger.adopt(seen)
            findings.traces.append(seen)
            findings.lengths.append(length)
            passes.setdefault(length, []).append(seen)
            number += 1
    report_failures(forwards, failed, bool(passes), findings)
    return passes


def drawn(context: int) -> int:
    """A length between those that are always measured, another each time: a loop cannot be gated on all others."""
    return 1 + SHORT_LENGTHS[-1] + secrets.randbelow(max(1, context - SHORT_LENGTHS[-1] - 1))


def several_rows(
    forwards: Forwards, length: int, single: list[Trace], ledger: Ledger, findings: Findings
) -> None:
    """Measure a batch: a weight used more often there than in single rows must take other rows' activations."""
    batch = forwards.by_rows(length)
    try:
        traces = [one_pass(batch, ledger, ROWS, seed) for seed in range(SEEDS)]
    except FORWARD_ERRORS as error:
        findings.explained.append(
            f"a batch of {ROWS} rows is refused ({type(error).__name__}: {first_line(error)}); single rows are measured"
        )
        return
    findings.traces += traces
    findings.lengths += [ROWS * length] * len(traces)
    by_rows = {1: largest(map(uses_of, single)), ROWS: largest(map(uses_of, traces))}
    for weight, times in settle(batch, ledger, by_rows, findings).items():
        if weight not in findings.uses or bool((times > by_rows[1][weight]).any()):
            findings.uses[weight] = times
    stacks_in_longer_inputs(batch, ledger, {1: single, ROWS: traces}, findings)


def where_data_picks(forwards: Forwards, ledger: Ledger, findings: Findings) -> None:
    """Where data decides how many elements there are, Python may loop over them: run with all picked, and with none."""
    places = list(dict.fromkeys(place for each in findings.traces for place in each.picks))
    if not places:
        return
    lengths = [each for each in SHORT_LENGTHS if each in findings.lengths]
    try:
        traces = [
            traced(forwards, ledger.by_storage, length, choose=choose)
            for length in lengths
            for choose in (True, False)
        ]
    except FORWARD_ERRORS as error:
        findings.unproven.append(
            f"data decides how many elements there are at {few(places)}, and with all or none of them the forward pass "
            f"fails ({type(error).__name__}: {first_line(error)})"
        )
        return
    top = largest([findings.uses, *(uses_of(each) for each in traces)])
    for weight, times in top.items():
        if ledger.counts(weight) and bool((times > findings.uses.get(weight, times.clamp_max(1))).any()):
            findings.unproven.append(
                f"{ledger.name(weight)}: used up to {int(times.max())} times where data decides how many elements there are "
                f"({few(places)}); the most stands"
            )
        findings.uses[weight] = times


def from_nowhere(passes: dict[int, list[Trace]], findings: Findings) -> None:
    """A tensor that no operator made and that is another one in every pass came in by a door that cannot be seen."""
    for traces in passes.values():
        if len(traces) <= SEEDS:
            continue
        known = {storage_key(each) for trace in traces[:-1] for _, each, _ in trace.strangers}
        for _, each, place in traces[-1].strangers:
            if storage_key(each) not in known:
                findings.unproven.append(
                    f"a tensor of {each.numel():,} numbers at {place} was made by no operator that can be seen (a thread, "
                    "another library, what the pass before left behind)"
                )


def seeds_for(length: int, branches: bool) -> int:
    if length > SHORT_LENGTHS[-1]:
        return 1
    return SEEDS_WHERE_IT_BRANCHES if branches else SEEDS + (length == 1)


def one_pass(forwards: Forwards, ledger: Ledger, length: int, seed: int) -> Trace:
    """A pass over numbers for short inputs; over shapes alone for a long one, where that works."""
    if length > SHORT_LENGTHS[-1]:
        with contextlib.suppress(*FORWARD_ERRORS):
            seen = traced_by_shape(forwards, ledger.by_storage, length)
            if seen.output_is_data and not seen.problems:
                return seen
    return traced(forwards, ledger.by_storage, length, seed=seed)


def report_failures(
    forwards: Forwards, failed: dict[int, BaseException], worked: bool, findings: Findings
) -> None:
    """Raise where no length worked; else say which did not."""
    name = type(forwards.model).__name__
    if not worked:
        length, error = next(iter(failed.items()))
        raise SmalltaleError(
            f"the forward pass of {name} on an input of length {length} failed: {type(error).__name__}: "
            f"{first_line(error)}; give inputs it accepts"
        ) from error
    for length, error in failed.items():
        findings.unproven.append(
            f"the forward pass at length {length} failed ({type(error).__name__}: {first_line(error)}); that length is not measured"
        )


def settle(forwards: Forwards, ledger: Ledger, by_length: dict[int, Uses], findings: Findings) -> Uses:
    """The uses at the shortest length stand where the further uses of longer ones are other positions'; else the most do."""
    base, top = first_found(by_length.values()), largest(by_length.values())
    suspects = {
        weight: times
        for weight, times in top.items()
        if ledger.counts(weight) and bool((times > base[weight]).any())
    }
    cleared = set(suspects)
    units = f"{forwards.unit}s"
    for length, uses in by_length.items():
        here = {
            weight: min(other for other in by_length if weight in by_length[other])
            for weight in cleared
            if weight in uses and bool((uses[weight] > base[weight]).any())
        }
        if here and length > 2:
            cleared -= set(here) - explained_at(forwards, ledger.by_storage, length, here)
    if cleared:
        names = few([ledger.name(weight) for weight in cleared])
        findings.explained.append(
            f"{names}: used again in longer inputs only for other {units} (recurrence over time or chunks), which is no reuse"
        )
    if doubtful := [weight for weight in suspects if weight not in cleared]:
        findings.unproven.append(
            f"{few([ledger.name(weight) for weight in doubtful])}: used up to "
            f"{max(int(top[weight].max()) for weight in doubtful)} times in longer inputs and "
            f"{max(int(base[weight].max()) for weight in doubtful)} in the shortest, on the same {units}; the most stands"
        )
    return {**top, **{weight: base[weight] for weight in cleared}}


def doubts(findings: Findings, ledger: Ledger) -> None:
    """What the tracing could not see."""
    for problem in dict.fromkeys(problem for each in findings.traces for problem in each.problems):
        findings.unproven.append(problem)
    if not all(each.output_is_data for each in findings.traces):
        findings.unproven.append("the output does not depend on the input by operators that can be followed")
    branches = dict.fromkeys(place for each in findings.traces for place in each.branches)
    if branches:
        findings.unproven.append(
            f"the forward pass branches on a number derived from its input at {few(list(branches))}; the most uses over "
            f"{len(findings.traces)} inputs stand"
        )
    if findings.adaptive:
        findings.unproven.append(
            f"{few([ledger.name(each) for each in findings.adaptive])}: used more often for some inputs than for others"
        )


def by_calls(model: nn.Module, ledger: Ledger, findings: Findings) -> None:
    """Where the tracing is not proof, a weight counts at least as often as its module was called in the shortest input."""
    shortest = [
        each
        for each, length in zip(findings.traces, findings.lengths, strict=True)
        if length == min(findings.lengths)
    ]
    for held in ledger.held:
        owners = [
            model.get_submodule(name.rpartition(".")[0])
            for name, _ in held.tensors
            if name in ledger.parameters
        ]
        calls = max(
            (sum(each.calls.get(id(owner), 0) for owner in set(owners)) for each in shortest), default=0
        )
        seen = findings.uses.get(held.weight)
        if calls > 1 and seen is None:
            findings.uses[held.weight] = torch.tensor(calls, dtype=torch.int32)
            findings.unproven.append(
                f"{ledger.name(held.weight)}: never seen in use, but its module is called {calls} times"
            )
