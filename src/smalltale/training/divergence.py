"""Detects a run that has stopped learning: a loss that is not finite, or a loss that jumps.

Input: the loss of each step. Output: a description of the problem, or None.
Note: the loss of a small batch is noisy, so only a rise shared by several steps and well above the earlier noise counts.
"""

from __future__ import annotations

import math
from collections import deque
from statistics import median

HISTORY_STEPS = 100
"""Steps that define the usual loss and its spread."""
SPIKE_STEPS = 5
"""Consecutive steps that must all exceed the usual loss."""
MIN_RISE = 0.75
"""A spike rises at least this many nats per token above the usual loss, and at least 8 times the usual spread."""


class DivergenceGuard:
    """Compares each loss of a run with the losses before it."""

    def __init__(self) -> None:
        self.history: deque[float] = deque(maxlen=HISTORY_STEPS)
        self.recent: deque[float] = deque(maxlen=SPIKE_STEPS)

    def check(self, loss: float) -> str | None:
        """Record a loss. Returns the problem it shows, or None."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if len(self.recent) == SPIKE_STEPS:
            self.history.append(self.recent[0])
        self.recent.append(loss)
        if len(self.history) < HISTORY_STEPS // 2:
            return None
        level = median(self.history)
        spread = median(abs(past_loss - level) for past_loss in self.history)
        if min(self.recent) > level + max(MIN_RISE, 8 * spread):
            return f"the loss jumped from {level:.2f} to {min(self.recent):.2f}"
        return None

    @property
    def is_stable(self) -> bool:
        """Whether the last loss is below the level at which a spike begins."""
        return not self.history or self.recent[-1] <= median(self.history) + MIN_RISE
