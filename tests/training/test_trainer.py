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
from smalltale.tokens.shards import read_tokens
from smalltale.tokens.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from smalltale.training.batches import Plan
from smalltale.training.checkpoint import load_model, newest_state
from smalltale.training.config import TrainingConfig
from smalltale.training.evaluate import evaluate, windows_of
from smalltale.training.gradients import Gradients
from smalltale.training.launch import train, validation_stories
from smalltale.training.metrics_file import read_metrics
from smalltale.training.optim import OptimConfig
from smalltale.training.run_record import hash_of_weights
from smalltale.training.schedule import ScheduleConfig

SHAPE = ModelConfig(vocabulary=300, layers=2, width=32, heads=2, context=64)


def config(steps: int, **changes: object) -> TrainingConfig:
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


def run(prepared: Path, out: Path, settings: TrainingConfig, **more: object) -> None:
    tokenizer = Tokenizer.load(prepared / "tokenizer")
    train(settings, SHAPE, prepared / "tokens", tokenizer, out, **more)  # type: ignore[arg-type]


class Killed(Exception):
    """Stands for a kill in the middle of a run."""


def test_a_resumed_run_equals_an_unbroken_one_to_the_bit(prepared: Path, tmp_path: Path) -> None:
    run(prepared, tmp_path / "unbroken", config(12))

    def kill(_model: object, _state: object) -> None:
        raise Killed

    # Saved after every step, killed in the middle by the watcher.
    with pytest.raises(Killed):
        run(prepared, tmp_path / "broken", config(12, checkpoint_seconds=0.0), watch=kill)
    assert newest_state(tmp_path / "broken") is not None
    run(prepared, tmp_path / "broken", config(12))
    losses = [[each["loss"] for each in read_metrics(tmp_path / name)] for name in ("unbroken", "broken")]
    assert len(losses[0]) == 12
    assert losses[0] == losses[1]
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "unbroken" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes()


def test_training_lowers_the_loss_and_leaves_a_whole_checkpoint(prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "checkpoint"
    run(prepared, out, config(40), record={"counted_parameters": 7})
    losses = [each["loss"] for each in read_metrics(out)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5
    loaded = load_model(out)
    assert loaded.meta["finished"] is True
    assert loaded.meta["counts"]["steps"] == 40
    told = read_json(prepared / "tokens" / "meta.json")
    assert loaded.meta["inputs"]["train_tokens"] == told["hashes"]["train"]
    assert loaded.meta["sources"] == read_json(prepared / "corpus" / "meta.json")["inputs"]
    torch.manual_seed(0)
    assert loaded.meta["first_weights"] == hash_of_weights(Transformer(SHAPE))
    assert json.loads((out / "config.json").read_text())["counted_parameters"] == 7
    measured = [each["bits_per_byte"] for each in read_metrics(out) if "bits_per_byte" in each]
    assert len(measured) == 2
    assert measured[-1] < measured[0]


def test_a_clock_budget_ends_on_time(prepared: Path, tmp_path: Path) -> None:
    run(prepared, tmp_path / "timed", config(1, schedule=ScheduleConfig(minutes=0.02)))
    last = read_metrics(tmp_path / "timed")[-1]
    assert 1.2 <= last["seconds"] < 1.2 + 1.0


def test_another_recipe_does_not_go_on_in_the_same_folder(prepared: Path, tmp_path: Path) -> None:
    run(prepared, tmp_path / "run", config(2))
    with pytest.raises(FileProblem, match="another recipe, data or seed"):
        run(prepared, tmp_path / "run", config(3))


def test_tokens_of_another_tokenizer_are_refused(prepared: Path, tmp_path: Path) -> None:
    other = train_tokenizer(["a story of one word"], TokenizerConfig(vocabulary=280))
    with pytest.raises(SmalltaleError, match="encode the corpus again"):
        train(config(2), SHAPE, prepared / "tokens", other, tmp_path / "out")


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_state(
    prepared: Path, tmp_path: Path
) -> None:
    wild = config(50, optim=OptimConfig(embedding_rate=1e38), checkpoint_seconds=0.0)
    with pytest.raises(SmalltaleError, match="the last good state is kept"):
        run(prepared, tmp_path / "wild", wild)


def test_windows_score_every_token_once_with_the_longest_left_context() -> None:
    ids = list(range(1, 25))
    windows = windows_of(ids, 0, 10)
    scored = [target for window in windows for target in window.targets if target >= 0]
    assert scored == [*ids, 0]
    for window in windows[1:]:
        masked = sum(target < 0 for target in window.targets)
        assert masked == 5
    assert all(len(window.ids) == len(window.targets) <= 10 for window in windows)
    assert [len(each.ids) for each in windows_of(ids[:5], 0, 10)] == [6]


def test_bits_per_byte_equal_the_sum_over_stories_computed_by_hand(prepared: Path, tmp_path: Path) -> None:
    run(prepared, tmp_path / "run", config(3))
    loaded = load_model(tmp_path / "run")
    stories = ["A cat sat on the mat.", "“Oh,” said Mia — and ran home."]
    nats = 0.0
    for story in stories:
        ids = loaded.tokenizer.encode(story)
        with torch.no_grad():
            logits = loaded.model(torch.tensor([[loaded.tokenizer.end_id, *ids]]))[0].log_softmax(-1)
        nats -= sum(
            float(logits[place, token]) for place, token in enumerate([*ids, loaded.tokenizer.end_id])
        )
    expected = nats / math.log(2) / sum(len(story.encode()) for story in stories)
    assert evaluate(loaded.model, loaded.tokenizer, stories).bits_per_byte == pytest.approx(
        expected, rel=1e-5
    )


def test_a_loss_that_jumps_sends_the_run_back_once_with_half_the_rates(
    prepared: Path, tmp_path: Path
) -> None:
    settings = config(90, checkpoint_seconds=0.0, batch_tokens=256)
    bad = iter([False] * 70 + [True] * 5 + [False] * 1000)

    class Jumping(Gradients):
        def of_step(self, step: int, batch_tokens: int) -> float:
            return super().of_step(step, batch_tokens) + 9.0 * next(bad)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("smalltale.training.trainer.Gradients", Jumping)
        run(prepared, tmp_path / "out", settings)
    place = newest_state(tmp_path / "out")
    assert place is not None
    state = read_json(place / "meta.json")
    assert state["recoveries"] == 1
    assert state["rate_factor"] == 0.5
    losses = [each["loss"] for each in read_metrics(tmp_path / "out")]
    assert len(losses) == 90
    assert max(losses) < 9


def test_memory_that_does_not_suffice_halves_what_goes_through_at_once(
    prepared: Path, tmp_path: Path
) -> None:
    class Small(Gradients):
        def add(self, plan: Plan, scale: float, *, send: bool = False) -> torch.Tensor:
            if plan.starts.shape[0] > 2:
                raise torch.OutOfMemoryError("so much does not fit")
            return super().add(plan, scale, send=send)

    run(prepared, tmp_path / "whole", config(5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("smalltale.training.trainer.Gradients", Small)
        run(prepared, tmp_path / "small", config(5))
    whole, small = ([each["loss"] for each in read_metrics(tmp_path / name)] for name in ("whole", "small"))
    assert small == pytest.approx(whole, abs=2e-2)


def test_the_best_model_is_kept_beside_the_last(prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(prepared, out, config(30, evaluations=5))
    bits = [each["bits_per_byte"] for each in read_metrics(out) if "bits_per_byte" in each]
    stories = list(validation_stories(read_tokens(prepared / "tokens"), Tokenizer.load(out), 4))
    best = load_model(out / "best")
    assert evaluate(best.model, best.tokenizer, stories).bits_per_byte == pytest.approx(min(bits), rel=1e-4)
