"""Whether a run is still learning: losses that are not finite, and losses that jump.

In: the loss of each step. Out: what is wrong, in words, or nothing.
Beware: a small batch's loss is noisy; only a rise that several steps share, well above the noise seen before, counts.
"""

from __future__ import annotations

import math
from collections import deque
from statistics import median

SEEN = 100
"""Steps that tell what is usual."""
FRESH = 5
"""Steps in a row that must all be above it."""
LEAST_RISE = 0.75
"""Nats per token above the usual loss that count as a spike, if they are also 8 times the usual spread."""


class LossWatch:
    """Looks at the losses of a run as they come."""

    def __init__(self) -> None:
        self.usual: deque[float] = deque(maxlen=SEEN)
        self.fresh: deque[float] = deque(maxlen=FRESH)

    def trouble(self, loss: float) -> str | None:
        """What is wrong with the run after this loss, if anything."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if len(self.fresh) == FRESH:
            self.usual.append(self.fresh[0])
        self.fresh.append(loss)
        if len(self.usual) < SEEN // 2:
            return None
        level = median(self.usual)
        spread = median(abs(each - level) for each in self.usual)
        if min(self.fresh) > level + max(LEAST_RISE, 8 * spread):
            return f"the loss jumped from {level:.2f} to {min(self.fresh):.2f}"
        return None

    @property
    def calm(self) -> bool:
        """Whether the last loss is no higher than a spike's beginning."""
        return not self.usual or self.fresh[-1] <= median(self.usual) + LEAST_RISE
