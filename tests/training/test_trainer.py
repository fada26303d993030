"""Runs train, resume bit-exactly, recover from a diverging loss, and keep a usable checkpoint."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from smalltale.errors import FileProblem, SmalltaleError
from smalltale.files import read_json
from smalltale.model.transformer import ModelConfig, Transformer
from smalltale.tokens.token_folder import read_tokens
from smalltale.tokens.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from smalltale.training.batches import RowLayout
from smalltale.training.checkpoint import find_latest_state, load_checkpoint
from smalltale.training.config import TrainingConfig
from smalltale.training.evaluate import evaluate, split_into_windows
from smalltale.training.gradients import GradientAccumulator
from smalltale.training.launch import read_validation_stories, train
from smalltale.training.metrics_file import read_metrics
from smalltale.training.optim import OptimConfig
from smalltale.training.run_record import hash_weights
from smalltale.training.schedule import ScheduleConfig

SHAPE = ModelConfig(vocabulary=300, layers=2, width=32, heads=2, context=64)


def make_config(steps: int, **changes: object) -> TrainingConfig:
    settings: dict[str, object] = {
        "schedule": ScheduleConfig(steps=steps),
        "row_length": 64,
        "batch_tokens": 512,
        "micro_batch_tokens": 256,
        "device": "cpu",
        "compile": False,
        "validation_stories": 4,
        "evaluations": 2,
    }
    return TrainingConfig(**(settings | changes))  # type: ignore[arg-type]


def run_training(prepared: Path, out: Path, config: TrainingConfig, **options: object) -> None:
    tokenizer = Tokenizer.load(prepared / "tokenizer")
    train(config, SHAPE, prepared / "tokens", tokenizer, out, **options)  # type: ignore[arg-type]


def read_losses(out: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(out)]


def read_bits_per_byte(out: Path) -> list[float]:
    return [row["bits_per_byte"] for row in read_metrics(out) if "bits_per_byte" in row]


class SimulatedKill(Exception):
    """Interrupts a run in the middle."""


def test_a_resumed_run_equals_an_uninterrupted_run_bit_for_bit(prepared: Path, tmp_path: Path) -> None:
    run_training(prepared, tmp_path / "uninterrupted", make_config(12))

    def kill(_model: object, _state: object) -> None:
        raise SimulatedKill

    # Saved after every step, killed at the first evaluation.
    with pytest.raises(SimulatedKill):
        run_training(
            prepared, tmp_path / "killed", make_config(12, checkpoint_seconds=0.0), on_evaluation=kill
        )
    assert find_latest_state(tmp_path / "killed") is not None
    run_training(prepared, tmp_path / "killed", make_config(12))
    losses = read_losses(tmp_path / "uninterrupted")
    assert len(losses) == 12
    assert read_losses(tmp_path / "killed") == losses
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "uninterrupted" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def test_training_lowers_the_loss_and_writes_a_complete_checkpoint(prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "checkpoint"
    run_training(prepared, out, make_config(40), record={"counted_parameters": 7})
    losses = read_losses(out)
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5
    checkpoint = load_checkpoint(out)
    assert checkpoint.meta["finished"] is True
    assert checkpoint.meta["counts"]["steps"] == 40
    tokens_meta = read_json(prepared / "tokens" / "meta.json")
    assert checkpoint.meta["inputs"]["train_tokens"] == tokens_meta["hashes"]["train"]
    assert checkpoint.meta["sources"] == read_json(prepared / "corpus" / "meta.json")["inputs"]
    torch.manual_seed(0)
    assert checkpoint.meta["first_weights"] == hash_weights(Transformer(SHAPE))
    assert json.loads((out / "config.json").read_text())["counted_parameters"] == 7
    bits_per_byte = read_bits_per_byte(out)
    assert len(bits_per_byte) == 2
    assert bits_per_byte[-1] < bits_per_byte[0]


def test_a_time_budget_ends_on_time(prepared: Path, tmp_path: Path) -> None:
    run_training(prepared, tmp_path / "timed", make_config(1, schedule=ScheduleConfig(minutes=0.02)))
    last_row = read_metrics(tmp_path / "timed")[-1]
    assert 1.2 <= last_row["seconds"] < 1.2 + 1.0


def test_a_different_recipe_does_not_resume_in_the_same_folder(prepared: Path, tmp_path: Path) -> None:
    run_training(prepared, tmp_path / "run", make_config(2))
    with pytest.raises(FileProblem, match="different recipe, data or seed"):
        run_training(prepared, tmp_path / "run", make_config(3))


def test_tokens_of_a_different_tokenizer_are_refused(prepared: Path, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["a story of one word"], TokenizerConfig(vocabulary=280))
    with pytest.raises(SmalltaleError, match="encode the corpus again"):
        train(make_config(2), SHAPE, prepared / "tokens", tokenizer, tmp_path / "out")


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_state(
    prepared: Path, tmp_path: Path
) -> None:
    config = make_config(50, optim=OptimConfig(embedding_rate=1e38), checkpoint_seconds=0.0)
    with pytest.raises(SmalltaleError, match="the last good state is kept"):
        run_training(prepared, tmp_path / "diverging", config)


def test_windows_score_every_token_once_with_the_longest_left_context() -> None:
    ids = list(range(1, 25))
    windows = split_into_windows(ids, 0, 10)
    scored = [target for window in windows for target in window.targets if target >= 0]
    assert scored == [*ids, 0]
    for window in windows[1:]:
        masked = sum(target < 0 for target in window.targets)
        assert masked == 5
    assert all(len(window.ids) == len(window.targets) <= 10 for window in windows)
    assert [len(window.ids) for window in split_into_windows(ids[:5], 0, 10)] == [6]


def test_bits_per_byte_equal_the_sum_over_stories_computed_by_hand(prepared: Path, tmp_path: Path) -> None:
    run_training(prepared, tmp_path / "run", make_config(3))
    checkpoint = load_checkpoint(tmp_path / "run")
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    stories = ["A cat sat on the mat.", "“Oh,” said Mia — and ran home."]
    nats = 0.0
    for story in stories:
        ids = tokenizer.encode(story)
        with torch.no_grad():
            logprobs = model(torch.tensor([[tokenizer.end_id, *ids]]))[0].log_softmax(-1)
        nats -= sum(float(logprobs[row, token]) for row, token in enumerate([*ids, tokenizer.end_id]))
    expected = nats / math.log(2) / sum(len(story.encode()) for story in stories)
    assert evaluate(model, tokenizer, stories).bits_per_byte == pytest.approx(expected, rel=1e-5)


def test_a_loss_that_jumps_returns_the_run_to_a_saved_state_once_with_half_the_rates(
    prepared: Path, tmp_path: Path
) -> None:
    config = make_config(90, checkpoint_seconds=0.0, batch_tokens=256)
    is_spike = iter([False] * 70 + [True] * 5 + [False] * 1000)

    class SpikingGradients(GradientAccumulator):
        def accumulate(self, step: int, batch_tokens: int) -> torch.Tensor:
            return super().accumulate(step, batch_tokens) + 9.0 * next(is_spike)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("smalltale.training.trainer.GradientAccumulator", SpikingGradients)
        run_training(prepared, tmp_path / "out", config)
    state_folder = find_latest_state(tmp_path / "out")
    assert state_folder is not None
    state = read_json(state_folder / "meta.json")
    assert state["recoveries"] == 1
    assert state["rate_factor"] == 0.5
    losses = read_losses(tmp_path / "out")
    assert len(losses) == 90
    assert max(losses) < 9


def test_running_out_of_memory_halves_the_micro_batch(prepared: Path, tmp_path: Path) -> None:
    class SmallMemoryGradients(GradientAccumulator):
        def add_micro_batch(self, layout: RowLayout, scale: float, *, reduce: bool = False) -> torch.Tensor:
            if layout.starts.shape[0] > 2:
                raise torch.OutOfMemoryError("out of memory")
            return super().add_micro_batch(layout, scale, reduce=reduce)

    run_training(prepared, tmp_path / "large", make_config(5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("smalltale.training.trainer.GradientAccumulator", SmallMemoryGradients)
        run_training(prepared, tmp_path / "small", make_config(5))
    assert read_losses(tmp_path / "small") == pytest.approx(read_losses(tmp_path / "large"), abs=2e-2)


def test_the_best_model_is_kept_in_addition_to_the_last(prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_training(prepared, out, make_config(30, evaluations=5))
    stories = list(read_validation_stories(read_tokens(prepared / "tokens"), Tokenizer.load(out), 4))
    best = load_checkpoint(out / "best")
    assert evaluate(best.model, best.tokenizer, stories).bits_per_byte == pytest.approx(
        min(read_bits_per_byte(out)), rel=1e-4
    )
