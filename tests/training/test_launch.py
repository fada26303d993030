"""Inputs that do not match, failures during a run, and the state that remains after them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_trainer import SHAPE, make_config, read_losses, run_training

from smalltale.cli.train import train_recipe
from smalltale.config import load_recipe
from smalltale.errors import FileProblem, OverBudget, SmalltaleError
from smalltale.files import read_json
from smalltale.model.serialization import save_tensors
from smalltale.model.transformer import Transformer
from smalltale.training.checkpoint import find_latest_state, load_checkpoint
from smalltale.training.gradients import GradientAccumulator
from smalltale.training.launch import check_run_folder, lock_run_folder


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
    ("error", "message"),
    [
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), "stopped responding"),
        (RuntimeError("CUDA error: device-side assert triggered\nmore"), "stopped responding"),
        (RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer"), "lost another rank"),
        (torch.distributed.DistBackendError("NCCL error in: X.cpp:1"), "lost another rank"),
    ],
)
def test_a_lost_device_or_rank_leaves_the_last_good_state(
    prepared: Path, tmp_path: Path, error: RuntimeError, message: str
) -> None:
    class FailingGradients(GradientAccumulator):
        def accumulate(self, step: int, batch_tokens: int) -> torch.Tensor:
            if step == 7:
                raise error
            return super().accumulate(step, batch_tokens)

    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("smalltale.training.trainer.GradientAccumulator", FailingGradients)
        with pytest.raises(SmalltaleError, match=message) as raised:
            run_training(prepared, out, make_config(12, checkpoint_seconds=0.0))
    assert "\n" not in str(raised.value)
    assert f"the last good state is kept in {out}" in str(raised.value)
    run_training(prepared, out, make_config(12))
    run_training(prepared, tmp_path / "uninterrupted", make_config(12))
    assert read_losses(out) == read_losses(tmp_path / "uninterrupted")


def test_an_unrelated_error_is_not_reported_as_a_lost_device(prepared: Path, tmp_path: Path) -> None:
    def fail(_model: object, _state: object) -> None:
        raise RuntimeError("the sizes of tensors must match")

    with pytest.raises(RuntimeError, match="sizes of tensors"):
        run_training(prepared, tmp_path / "out", make_config(4), on_evaluation=fail)


def test_a_failing_evaluation_at_the_end_does_not_lose_the_run(prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def fail(_model: object, _state: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(SmalltaleError, match="run out of memory"):
        run_training(prepared, out, make_config(6, evaluations=1), on_evaluation=fail)
    assert find_latest_state(out) == out / "training_state" / "step-00000006"
    weights = load_checkpoint(out).model.state_dict()
    run_training(prepared, out, make_config(6, evaluations=1))
    run_training(prepared, tmp_path / "uninterrupted", make_config(6, evaluations=1))
    assert read_losses(out) == read_losses(tmp_path / "uninterrupted")
    for name, tensor in load_checkpoint(tmp_path / "uninterrupted").model.state_dict().items():
        assert torch.equal(tensor, weights[name])


def truncate_optimizer_file(state: Path) -> None:
    path = state / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def replace_model_by_another_shape(state: Path) -> None:
    model = Transformer(type(SHAPE)(vocabulary=300, layers=2, width=64, heads=2, context=64))
    save_tensors(state / "model.safetensors", model.state_dict())


def damage_meta_file(state: Path) -> None:
    (state / "meta.json").write_text('{"step": "seven"}')


@pytest.mark.parametrize(
    "damage", [truncate_optimizer_file, replace_model_by_another_shape, damage_meta_file]
)
def test_a_damaged_state_is_reported_and_not_changed(
    prepared: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    out = tmp_path / "out"
    run_training(prepared, out, make_config(4))
    state = find_latest_state(out)
    assert state is not None
    damage(state)
    shutil.copytree(out, tmp_path / "before")
    with pytest.raises(FileProblem, match=r"is damaged.*remove .*training_state to start over") as raised:
        run_training(prepared, out, make_config(4))
    assert len(str(raised.value)) < 700
    for path in (tmp_path / "before" / "training_state").rglob("*.*"):
        assert (out / path.relative_to(tmp_path / "before")).read_bytes() == path.read_bytes()
    assert read_json(out / "meta.json")["finished"] is True


HOLD_LOCK = """
import sys, time
from pathlib import Path
from smalltale.training.launch import lock_run_folder
with lock_run_folder(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_is_killed(prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    process = subprocess.Popen([sys.executable, "-c", HOLD_LOCK, str(out)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(SmalltaleError, match=r"another process is training into .*choose another --out"):
            run_training(prepared, out, make_config(2))
    finally:
        process.kill()
        process.communicate()
    run_training(prepared, out, make_config(2))
    assert len(read_losses(out)) == 2


def test_a_run_killed_before_its_first_file_can_start_again(tmp_path: Path) -> None:
    with lock_run_folder(tmp_path):
        pass
    check_run_folder(tmp_path)
    (tmp_path / "unlocked").mkdir()
    (tmp_path / "unlocked" / "notes.txt").touch()
    with pytest.raises(FileProblem, match="not written by smalltale"):
        check_run_folder(tmp_path / "unlocked")
