"""What the forward passes of a model showed, as it is gathered.

In: nothing. Out: Findings, which watch.py, stacks.py and positions.py fill and count.py tells.
Beware: a line in `unproven` makes the whole count unproven.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from smalltale.counting.tracing.trace import Trace
from smalltale.counting.tracing.weight_regions import Weight
from smalltale.counting.uses import Uses


@dataclass
class Findings:
    """What the passes showed."""

    uses: Uses = field(default_factory=dict)
    traces: list[Trace] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    unproven: list[str] = field(default_factory=list)
    explained: list[str] = field(default_factory=list)
    adaptive: set[Weight] = field(default_factory=set)
    """Weights used more often for some inputs than for others."""
    stacked: Uses = field(default_factory=dict)
    """Uses by operators alone, of weights of which one operator met several activations of one position."""


def few(names: list[str], most: int = 4) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
