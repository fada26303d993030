"""What does not fit, what breaks on the way, and what is kept then."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_trainer import SHAPE, config, run

from smalltale.cli.train import train_recipe
from smalltale.config import load_recipe
from smalltale.errors import FileProblem, OverBudget, SmalltaleError
from smalltale.files import read_json
from smalltale.model.serialization import save_tensors
from smalltale.model.transformer import Transformer
from smalltale.training.checkpoint import load_model, newest_state
from smalltale.training.gradients import Gradients
from smalltale.training.metrics_file import read_metrics


def losses(out: Path) -> list[float]:
    return [each["loss"] for each in read_metrics(out)]


def test_a_recipe_over_its_class_is_refused_before_anything_is_written(
    prepared: Path, tmp_path: Path
) -> None:
    recipe = load_recipe("demo", ["model.layers=40"])
    with pytest.raises(OverBudget, match="layers instead of 40 in blocks would fit"):
        train_recipe(recipe, prepared / "tokens", prepared / "tokenizer", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_vocabulary_smaller_than_the_tokenizers_is_refused(prepared: Path, tmp_path: Path) -> None:
    recipe = load_recipe("demo", ["model.vocabulary=200", "training.row_length=64"])
    with pytest.raises(SmalltaleError, match=r"smaller than the tokenizer's 300; set model\.vocabulary=300"):
        train_recipe(recipe, prepared / "tokens", prepared / "tokenizer", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), "stopped answering"),
        (RuntimeError("CUDA error: device-side assert triggered\nmore"), "stopped answering"),
        (RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer"), "lost another rank"),
        (torch.distributed.DistBackendError("NCCL error in: X.cpp:1"), "lost another rank"),
    ],
)
def test_a_card_or_rank_that_vanishes_leaves_the_last_good_state(
    prepared: Path, tmp_path: Path, broken: RuntimeError, says: str
) -> None:
    class Vanishing(Gradients):
        def of_step(self, step: int, batch_tokens: int) -> float:
            if step == 7:
                raise broken
            return super().of_step(step, batch_tokens)

    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("smalltale.training.trainer.Gradients", Vanishing)
        with pytest.raises(SmalltaleError, match=says) as told:
            run(prepared, out, config(12, checkpoint_seconds=0.0))
    assert "\n" not in str(told.value)
    assert f"the last good state is kept in {out}" in str(told.value)
    run(prepared, out, config(12))
    run(prepared, tmp_path / "unbroken", config(12))
    assert losses(out) == losses(tmp_path / "unbroken")


def test_another_bug_is_not_called_a_card_that_vanished(prepared: Path, tmp_path: Path) -> None:
    def wrong(_model: object, _state: object) -> None:
        raise RuntimeError("the sizes of tensors must match")

    with pytest.raises(RuntimeError, match="sizes of tensors"):
        run(prepared, tmp_path / "out", config(4), watch=wrong)


def test_an_evaluation_that_fails_at_the_end_does_not_lose_the_run(prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def fail(_model: object, _state: object) -> None:
        raise torch.OutOfMemoryError("so many stories do not fit")

    with pytest.raises(SmalltaleError, match="run out of memory"):
        run(prepared, out, config(6, evaluations=1), watch=fail)
    assert newest_state(out) == out / "training_state" / "step-00000006"
    kept = load_model(out).model.state_dict()
    run(prepared, out, config(6, evaluations=1))
    run(prepared, tmp_path / "unbroken", config(6, evaluations=1))
    assert losses(out) == losses(tmp_path / "unbroken")
    for name, each in load_model(tmp_path / "unbroken").model.state_dict().items():
        assert torch.equal(each, kept[name])


def cut(state: Path) -> None:
    path = state / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def of_another_shape(state: Path) -> None:
    other = Transformer(type(SHAPE)(vocabulary=300, layers=2, width=64, heads=2, context=64))
    save_tensors(state / "model.safetensors", other.state_dict())


def without_a_record(state: Path) -> None:
    (state / "meta.json").write_text('{"step": "seven"}')


@pytest.mark.parametrize("damage", [cut, of_another_shape, without_a_record])
def test_a_damaged_state_is_named_and_left_as_it_is(
    prepared: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    out = tmp_path / "out"
    run(prepared, out, config(4))
    state = newest_state(out)
    assert state is not None
    damage(state)
    shutil.copytree(out, tmp_path / "before")
    with pytest.raises(FileProblem, match=r"is damaged.*remove .*training_state to start over") as told:
        run(prepared, out, config(4))
    assert len(str(told.value)) < 700
    for path in (tmp_path / "before" / "training_state").rglob("*.*"):
        assert (out / path.relative_to(tmp_path / "before")).read_bytes() == path.read_bytes()
    assert read_json(out / "meta.json")["finished"] is True
