"""Trackers, each run for real where its package is installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from smalltale.errors import MissingExtra, RecipeError
from smalltale.training.trackers import open_trackers


def test_an_unknown_tracker_is_refused_with_the_possible_names(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="choose from tensorboard, trackio, wandb"):
        open_trackers(["mlflow"], tmp_path, {})


def test_the_error_for_a_missing_package_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtra, match=r"smalltale\[track\]"):
        open_trackers(["wandb"], tmp_path, {})


@pytest.mark.all
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_the_metrics_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra `track` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tracker,) = open_trackers(["tensorboard"], tmp_path, {"seed": 0})
    for step in (1, 2):
        tracker.log(step, {"loss": 4.0 / step})
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 4.0), (2, 2.0)]


@pytest.mark.all
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wandb_records_a_run_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the extra `track` is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tracker,) = open_trackers(["wandb"], tmp_path, {"seed": 0})
    tracker.log(1, {"loss": 4.0})
    tracker.close()
    (recording,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert recording.stat().st_size > 0
