"""Several activations of one position in one operator: depths stacked in a batch or along a sequence, heads that share.

In: traces of the same model at several lengths. Out: uses at length 1, and findings.
At length 1 and batch 1 every activation belongs to the one position, so each different one that a weight meets is a use.
Longer inputs must not show more of them than positions times uses, or they were stacked only there.
Beware: an activation that is the same for every input (learned tokens before the text) is no position's; one that a model
adds behind the text depends on it, and cannot be told from a stacked depth.
"""

from __future__ import annotations

import contextlib

import torch

from smalltale.counting.inputs import SHORT_LENGTHS, Forwards
from smalltale.counting.recurrence import traced
from smalltale.counting.report import Findings, few
from smalltale.counting.tracing.trace import Trace
from smalltale.counting.uses import Uses, activations_by_shape, activations_of, largest, uses_by_position
from smalltale.counting.weights import Ledger
from smalltale.model.architectures import FORWARD_ERRORS

NONE = torch.zeros((), dtype=torch.int32)


def stacked(traces: list[Trace], by_meeting: Uses, ledger: Ledger, findings: Findings) -> list[Uses]:
    """Uses at length 1 with every different activation of the one position taken as a use."""
    several = [uses_by_position(each, traces) for each in traces]
    top = largest(several)
    more = [
        weight for weight in top if ledger.counts(weight) and bool((top[weight] > by_meeting[weight]).any())
    ]
    findings.stacked = {weight: by_meeting[weight] for weight in more}
    if more:
        findings.explained.append(
            f"{few([ledger.name(each) for each in more])}: several different activations of one position meet it in one "
            "operator (depths stacked in a batch, heads that share a matrix); each is a use"
        )
        if any(meeting.vectors and not meeting.vectors.measured for meeting in traces[0].meetings):
            findings.unproven.append(
                "activations are told apart by shape alone, as the weights have no values"
            )
    turned = [
        weight
        for each in traces
        for meeting in each.meetings
        if meeting.applied > 1
        for weight, _ in meeting.weights
    ]
    if turned := [each for each in dict.fromkeys(turned) if ledger.counts(each)]:
        findings.unproven.append(
            f"{few([ledger.name(each) for each in turned])}: turned into data (looked up, or scaled by the input) and then "
            "multiplied with other data more than once; each product is taken as a use"
        )
    return several


def stacks_in_longer_inputs(
    forwards: Forwards, ledger: Ledger, passes: dict[int, list[Trace]], findings: Findings
) -> None:
    """A longer input must not show a weight more activations for each position than its uses; else the most stand.

    The same of a batch and its rows.
    """
    settled = dict(findings.uses)
    before: tuple[int, Uses] = (0, {})
    for length, traces in passes.items():
        raw = activations_by_shape(traces[0])
        steps = length - before[0]
        grown = {
            weight: met - before[1].get(weight, NONE) for weight, met in raw.items() if ledger.counts(weight)
        }
        if length > SHORT_LENGTHS[-1]:
            if not any(bool((met > steps * settled[weight]).any()) for weight, met in grown.items()):
                continue
            with contextlib.suppress(*FORWARD_ERRORS):
                traces = [traced(forwards, ledger.by_storage, length, seed=seed) for seed in range(2)]
        if length == 2:
            positions_or_uses(grown, settled, ledger, findings)
        if length > 1:
            met = largest(activations_of(each, traces) for each in traces)
            compare_stacks(forwards, length, met, settled, ledger, findings)
        before = (length, raw)


def positions_or_uses(grown: Uses, settled: Uses, ledger: Ledger, findings: Findings) -> None:
    """A second position must bring as many activations as the first, or some of those are positions of their own."""
    for weight, usual in findings.stacked.items():
        times = settled[weight]
        if weight in grown and bool(((grown[weight] < times) & (times > usual)).any()):
            findings.unproven.append(
                f"{ledger.name(weight)}: the first position brings {int(times.max())} activations to it, a second one fewer; "
                "they may be positions that the model adds behind the text, and are taken as uses"
            )


def compare_stacks(
    forwards: Forwards, length: int, met: Uses, settled: Uses, ledger: Ledger, findings: Findings
) -> None:
    """Raise the uses of weights that meet more activations than positions, or rows, times uses."""
    for weight, times in met.items():
        positions = length * forwards.unit_positions
        share = (times + positions - 1).div(positions, rounding_mode="floor").int()
        if ledger.counts(weight) and bool((share > settled[weight]).any()):
            findings.uses[weight] = torch.maximum(findings.uses[weight], share)
            findings.unproven.append(
                f"{ledger.name(weight)}: over {length} {forwards.unit}s it meets {int(times.max()):,} different activations, "
                f"{int(share.max())} for each position, and {int(settled[weight].max())} were explained"
            )
