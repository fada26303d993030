"""Runs that are killed, compiled as a user's are, and runs whose disk fills."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from smalltale.training.checkpoint import newest_state
from smalltale.training.metrics_file import read_metrics, rows_of

TRAIN = (sys.executable, "-m", "smalltale", "train", "demo", "--tokens", "tokens", "--tokenizer", "tokenizer")
SETTINGS = (
    "model.layers=2",
    "model.width=64",
    "training.row_length=128",
    "training.batch_tokens=1024",
    "training.micro_batch_tokens=1024",
    "training.evaluations=1",
    "training.validation_stories=4",
    "training.checkpoint_seconds=0.5",
)
KILLS, STEPS = 20, 3000


def prepare(folder: Path) -> None:
    for words in (
        (
            "corpus",
            "build",
            "demo",
            "--out",
            "corpus",
            "--set",
            "corpus.stories=400",
            "--set",
            "corpus.validation_share=0.1",
        ),
        ("tokens", "train", "corpus", "--out", "tokenizer", "--set", "tokenizer.vocabulary=600"),
        ("tokens", "encode", "corpus", "--tokenizer", "tokenizer", "--out", "tokens"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "smalltale", *words], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def command(out: str, steps: int, *more: str) -> list[str]:
    settings = [word for each in (*SETTINGS, *more) for word in ("--set", each)]
    return [*TRAIN, "--out", out, "--steps", str(steps), *settings]


@pytest.mark.all
def test_a_compiled_run_killed_at_any_moment_ends_as_one_never_killed(tmp_path: Path) -> None:
    prepare(tmp_path)
    unbroken = subprocess.run(command("unbroken", STEPS), cwd=tmp_path, capture_output=True, text=True)
    assert unbroken.returncode == 0, unbroken.stderr
    waits = random.Random(0)
    for kill in range(KILLS + 1):
        running = subprocess.Popen(command("broken", STEPS), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        assert running.stderr is not None
        for line in running.stderr:
            if line.startswith("training:"):
                break
        if kill < KILLS:
            time.sleep(waits.uniform(0.05, 1.2))
            assert running.poll() is None, "the run ended before its last kill: give it more steps"
            os.kill(running.pid, signal.SIGKILL)
        running.communicate()
    losses = [[each["loss"] for each in read_metrics(tmp_path / name)] for name in ("unbroken", "broken")]
    assert len(losses[0]) == STEPS
    assert losses[0] == losses[1]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("unbroken", "broken")]
    assert weights[0] == weights[1]


@pytest.mark.all
def test_a_disk_that_fills_keeps_the_last_good_state(small_disk: Path) -> None:
    prepare(small_disk)
    # A model of 2.5 MB with its optimizer's state: the first state fits, the second does not.
    done = subprocess.run(
        command("run", 5000, "model.width=128", "training.compile=false"),
        cwd=small_disk,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "free some space" in done.stderr.splitlines()[-1]
    assert not list(small_disk.rglob("*.tmp"))
    state = newest_state(small_disk / "run")
    assert state is not None
    for name in ("model", "optimizer"):
        assert load_file(state / f"{name}.safetensors")


@pytest.mark.all
def test_a_pre_empted_run_saves_its_last_step_and_ends_as_one_never_stopped(tmp_path: Path) -> None:
    prepare(tmp_path)
    settings = ("training.compile=false", "training.checkpoint_seconds=1000")
    subprocess.run(
        command("unbroken", 300, *settings), cwd=tmp_path, capture_output=True, text=True, check=True
    )
    out = tmp_path / "broken"
    running = subprocess.Popen(
        command("broken", 300, *settings), cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    while not ((out / "metrics.jsonl").exists() and len(rows_of(out / "metrics.jsonl")[0]) > 20):
        assert running.poll() is None
        time.sleep(0.05)
    running.terminate()
    _, told = running.communicate(timeout=60)
    assert running.returncode == 2, told
    assert told.splitlines()[-1].endswith("the same command goes on from there")
    state = newest_state(out)
    assert state is not None
    assert state.name == f"step-{len(read_metrics(out)):08d}"
    assert len(read_metrics(out)) < 300
    subprocess.run(
        command("broken", 300, *settings), cwd=tmp_path, capture_output=True, text=True, check=True
    )
    losses = [[each["loss"] for each in read_metrics(tmp_path / name)] for name in ("unbroken", "broken")]
    assert losses[0] == losses[1]
