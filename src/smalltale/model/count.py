"""Counted parameters: every distinct trained weight, times the distinct times it takes part in one forward computation.

In: a module, and inputs where they cannot be guessed. Out: a ParameterCount that explains itself.
Uses are counted for each element by watching forward passes (trace.py) at lengths 1, 2, 8 and the context.
Beware: `proven` is false wherever something could not be seen or explained; the larger figure stands then.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from smalltale.errors import SmalltaleError
from smalltale.model.budget import budget_notes, refuse_over_budget
from smalltale.model.forwards import FORWARD_ERRORS, Forwards, describe_forwards
from smalltale.model.marks import Weight
from smalltale.model.positions import explained_at, traced, traced_by_shape
from smalltale.model.tally import Uses, differing, first_found, largest, uses_of
from smalltale.model.trace import Trace
from smalltale.model.weights import Held, Ledger, held_weights
from smalltale.rules import Rules

__all__ = ["CountRow", "ParameterCount", "count_parameters", "refuse_over_budget"]
SHORT_LENGTHS = (1, 2, 8)
SEEDS, SEEDS_WHERE_IT_BRANCHES = 2, 8


class CountRow(NamedTuple):
    """One weight tensor; a second name of the same storage is in `name` too."""

    name: str
    shape: str
    unique: int
    uses: int
    """The most uses of any of its elements, embedding and decoder taken as one."""
    counted: int
    trained: bool


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """A module's count under the rule."""

    unique: int
    """Trained weights, each once."""
    counted: int
    weight_class: str | None
    """The smallest class it fits, None above all."""
    rows: tuple[CountRow, ...]
    notes: tuple[str, ...]
    """What was tied, reused and where, not counted and why, why it is not proven, the budget left."""
    proven: bool
    """Whether nothing escaped the tracing and every further use at longer inputs was explained."""


@dataclass
class Findings:
    """What the passes showed."""

    uses: Uses = field(default_factory=dict)
    traces: list[Trace] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    unproven: list[str] = field(default_factory=list)
    explained: list[str] = field(default_factory=list)
    adaptive: set[Weight] = field(default_factory=set)


def count_parameters(
    model: nn.Module,
    inputs: Any = None,
    *,
    every_float: bool = False,
    frozen: frozenset[str] = frozenset(),
    depth: int = 1,
) -> ParameterCount:
    """Count a module. Its weights and its mode are left as they were.

    inputs: a tensor, a tuple of positional or a mapping of keyword arguments; positions are axis 1. Token ids (1, T) without.
    every_float: count all that a file of weights holds (nothing in it shows what was frozen), but for the names in `frozen`.
    depth: the declared most rounds of a loop whose length depends on its data.
    Raises SmalltaleError where no input can be made or the forward pass fails.
    """
    ledger = held_weights(model, every_float, frozen)
    forwards = describe_forwards(model, inputs)
    findings = watch(forwards, ledger)
    if depth > 1:
        for weight in findings.adaptive:
            findings.uses[weight] = torch.where(
                findings.uses[weight] > 1, findings.uses[weight].clamp_min(depth), findings.uses[weight]
            )
    if findings.unproven:
        by_calls(model, ledger, findings)
    rows = rows_of(ledger, findings.uses)
    counted = sum(row.counted for row in rows)
    found = Rules().class_for(counted)
    return ParameterCount(
        unique=sum(row.unique for row in rows if row.trained),
        counted=counted,
        weight_class=found.name if found else None,
        rows=tuple(rows),
        notes=(*notes_of(rows, ledger, findings), *budget_notes(rows, counted)),
        proven=not findings.unproven,
    )


def watch(forwards: Forwards, ledger: Ledger) -> Findings:
    """Trace the passes and settle the uses of every weight."""
    findings = Findings()
    context = max(1, forwards.context)
    lengths = (
        [context]
        if forwards.fixed
        else sorted({each for each in (*SHORT_LENGTHS, context) if each <= context})
    )
    passes: dict[int, list[Uses]] = {}
    failed: dict[int, BaseException] = {}
    seeds = SEEDS
    for length in lengths:
        number = 0
        while number < (seeds if length <= SHORT_LENGTHS[-1] else 1):
            try:
                seen = one_pass(forwards, ledger, length, number)
            except FORWARD_ERRORS as error:
                failed[length] = error
                break
            if seen.branches:
                seeds = SEEDS_WHERE_IT_BRANCHES
            ledger.adopt(seen)
            findings.traces.append(seen)
            findings.lengths.append(length)
            passes.setdefault(length, []).append(uses_of(seen))
            number += 1
    report_failures(forwards, failed, passes, findings)
    for each in passes.values():
        findings.adaptive |= {weight for weight in differing(each) if ledger.counts(weight)}
    settle(forwards, ledger, {length: largest(each) for length, each in passes.items()}, findings)
    doubts(findings, ledger)
    return findings


def one_pass(forwards: Forwards, ledger: Ledger, length: int, seed: int) -> Trace:
    """A pass over numbers for short inputs; over shapes alone for a long one, where that works."""
    if length > SHORT_LENGTHS[-1]:
        with contextlib.suppress(*FORWARD_ERRORS):
            seen = traced_by_shape(forwards, ledger.by_storage, length)
            if seen.output_is_data and not seen.problems:
                return seen
    return traced(forwards, ledger.by_storage, length, seed=seed)


def report_failures(
    forwards: Forwards, failed: dict[int, BaseException], passes: dict[int, list[Uses]], findings: Findings
) -> None:
    """Raise where no length worked; else say which did not."""
    name = type(forwards.model).__name__
    if not passes:
        length, error = next(iter(failed.items()))
        raise SmalltaleError(
            f"the forward pass of {name} on an input of length {length} failed: {type(error).__name__}: "
            f"{first_line(error)}; give inputs it accepts"
        ) from error
    for length, error in failed.items():
        findings.unproven.append(
            f"the forward pass at length {length} failed ({type(error).__name__}: {first_line(error)}); that length is not measured"
        )


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:200]


def settle(forwards: Forwards, ledger: Ledger, by_length: dict[int, Uses], findings: Findings) -> None:
    """The uses at the shortest length stand where the further uses of longer ones are other positions'; else the most do."""
    base, top = first_found(by_length.values()), largest(by_length.values())
    suspects = {
        weight: times
        for weight, times in top.items()
        if ledger.counts(weight) and bool((times > base[weight]).any())
    }
    findings.uses = dict(top)
    cleared = set(suspects)
    for length, uses in by_length.items():
        here = {
            weight: min(other for other in by_length if weight in by_length[other])
            for weight in cleared
            if weight in uses and bool((uses[weight] > base[weight]).any())
        }
        if here and length > 2:
            cleared -= set(here) - explained_at(forwards, ledger.by_storage, length, here)
    for weight in cleared:
        findings.uses[weight] = base[weight]
    if cleared:
        names = few([ledger.name(weight) for weight in cleared])
        findings.explained.append(
            f"{names}: used again in longer inputs only for other positions (recurrence over time or chunks), which is no reuse"
        )
    if doubtful := [weight for weight in suspects if weight not in cleared]:
        findings.unproven.append(
            f"{few([ledger.name(weight) for weight in doubtful])}: used up to "
            f"{max(int(top[weight].max()) for weight in doubtful)} times in longer inputs and "
            f"{max(int(base[weight].max()) for weight in doubtful)} in the shortest, on the same positions; the most stands"
        )


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


def rows_of(ledger: Ledger, uses: Uses) -> list[CountRow]:
    """A row a weight tensor, in the module's order; elements that an earlier row has are not counted again."""
    rows = []
    for held in ledger.held:
        times = uses.get(held.weight, torch.zeros((), dtype=torch.int32))
        for names, tensor, own in held.distinct():
            rows.append(row_of(names, tensor, own, times, held))
    return rows


def row_of(names: list[str], tensor: Tensor, own: Tensor | None, times: Tensor, held: Held) -> CountRow:
    """own: which of the tensor's elements no earlier row has, None for all."""
    if times.dim():
        times = times.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())
    mine = times if own is None or not times.dim() else times[own]
    unique = tensor.numel() if own is None else int(own.sum())
    trained = held.is_counted(names)
    once = mine.clamp_min(1)
    counted = (int(once.sum()) if once.dim() else int(once) * unique) if trained else 0
    return CountRow(
        name=" = ".join(names),
        shape=" × ".join(map(str, tensor.shape)) or "1",
        unique=unique,
        uses=int(mine.max()) if mine.numel() else 0,
        counted=counted,
        trained=trained,
    )


def notes_of(rows: list[CountRow], ledger: Ledger, findings: Findings) -> list[str]:
    """What a reader should know beside the table."""
    notes = [
        f"tied: {row.name} is one weight, counted once for the pair"
        for row in rows
        if " = " in row.name and row.trained
    ]
    for row in rows:
        if row.trained and row.uses > 1:
            notes.append(
                f"reused: {row.name} is used {row.uses} times ({few(ledger.places(row.name, findings.traces))})"
            )
    if idle := [row for row in rows if row.trained and not row.uses]:
        notes.append(
            f"{few([row.name for row in idle])}: {sum(row.unique for row in idle):,} trained weights take no part in the "
            "forward pass, and count once"
        )
    for kind in ("frozen", "buffer"):
        found = [row for row in rows if not row.trained and row.uses and ledger.kind(row.name) == kind]
        what = "frozen weights that take part" if kind == "frozen" else "numbers in buffers that take part"
        if found:
            notes.append(
                f"not counted: {sum(row.unique for row in found):,} {what} in the forward pass ({few([row.name for row in found])})"
            )
    notes += findings.explained
    return notes + [f"unproven: {each}" for each in findings.unproven]


def few(names: list[str], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
