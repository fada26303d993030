"""Learning rate schedule: progress of a run and the multiplier of the full learning rates at that progress.

Input: steps done and seconds spent training. Output: progress from 0 to 1, and a multiplier.
Note: with a time budget the schedule follows the clock, so a run ends on time and fully decayed on any machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from smalltale.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Warm-up, constant rate, long linear decay (arXiv 2405.18392)."""

    minutes: float = 0.0
    """Time budget: total time of the training steps, without start-up, evaluation and saving. 0: no limit."""
    steps: int = 0
    """Step budget. 0: no limit. With both budgets the run ends when the first is spent."""
    warmup_fraction: float = 0.02
    """Share of the run spent warming up, 0 <= f < 1."""
    decay_fraction: float = 0.6
    """Share of the run spent decaying, 0 <= f <= 1."""
    final_fraction: float = 0.02
    """The multiplier at the end."""

    def __post_init__(self) -> None:
        if not 0 <= self.minutes < math.inf or self.steps < 0 or not (self.minutes or self.steps):
            raise RecipeError("a run needs an end: set training.schedule.minutes or .steps above 0")
        if not (0 <= self.warmup_fraction < 1 and 0 <= self.decay_fraction <= 1):
            raise RecipeError("training.schedule needs 0 <= warmup_fraction < 1 and 0 <= decay_fraction <= 1")

    def progress(self, step: int, seconds: float) -> float:
        """Spent share of the budget, the larger of the two, at most 1."""
        by_step = step / self.steps if self.steps else 0.0
        by_clock = seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(by_step, by_clock))

    def multiplier(self, progress: float) -> float:
        """Share of the full learning rate at `progress`."""
        if progress < self.warmup_fraction:
            return max(progress, 0.1 * self.warmup_fraction) / self.warmup_fraction
        remaining = (1 - progress) / self.decay_fraction if self.decay_fraction else 1.0
        return self.final_fraction + (1 - self.final_fraction) * min(1.0, remaining)
