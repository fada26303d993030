"""Progress and learning rate multiplier of a run."""

from __future__ import annotations

import pytest

from smalltale.errors import RecipeError
from smalltale.training.schedule import ScheduleConfig


def test_progress_follows_the_budget_that_is_spent_first() -> None:
    schedule = ScheduleConfig(minutes=1, steps=100)
    assert schedule.progress(10, 30) == 0.5
    assert schedule.progress(80, 30) == 0.8
    assert schedule.progress(80, 90) == 1.0


def test_the_rate_warms_up_stays_constant_and_decays() -> None:
    schedule = ScheduleConfig(steps=100, warmup_fraction=0.1, decay_fraction=0.5, final_fraction=0.1)
    rates = [schedule.multiplier(step / 100) for step in range(101)]
    assert rates[0] < rates[5] < rates[10] == 1.0
    assert rates[10:50] == [1.0] * 40
    assert rates[75] == pytest.approx(0.55)
    assert rates[100] == pytest.approx(0.1)
    assert rates[50:] == sorted(rates[50:], reverse=True)


def test_a_run_without_a_budget_is_refused() -> None:
    with pytest.raises(RecipeError, match="needs an end"):
        ScheduleConfig()
