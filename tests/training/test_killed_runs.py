"""Runs that are killed, compiled as for a user, and runs that fill the disk."""

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

from smalltale.training.checkpoint import find_latest_state
from smalltale.training.metrics_file import read_metrics, read_rows

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


def prepare_tokens(folder: Path) -> None:
    small_corpus = ("--set", "corpus.stories=400", "--set", "corpus.validation_share=0.1")
    for arguments in (
        ("corpus", "build", "demo", "--out", "corpus", *small_corpus),
        ("tokens", "train", "corpus", "--out", "tokenizer", "--set", "tokenizer.vocabulary=600"),
        ("tokens", "encode", "corpus", "--tokenizer", "tokenizer", "--out", "tokens"),
    ):
        process = subprocess.run(
            [sys.executable, "-m", "smalltale", *arguments], cwd=folder, capture_output=True, text=True
        )
        assert process.returncode == 0, process.stderr


def train_command(out: str, steps: int, *settings: str) -> list[str]:
    options = [option for setting in (*SETTINGS, *settings) for option in ("--set", setting)]
    return [*TRAIN, "--out", out, "--steps", str(steps), *options]


def run_command(command: list[str], folder: Path) -> None:
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def read_losses(out: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(out)]


@pytest.mark.all
def test_a_compiled_run_killed_at_random_moments_equals_an_uninterrupted_run(tmp_path: Path) -> None:
    prepare_tokens(tmp_path)
    run_command(train_command("uninterrupted", STEPS), tmp_path)
    delays = random.Random(0)
    for kill in range(KILLS + 1):
        process = subprocess.Popen(
            train_command("killed", STEPS), cwd=tmp_path, stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("training:"):
                break
        if kill < KILLS:
            time.sleep(delays.uniform(0.05, 1.2))
            assert process.poll() is None, "the run ended before its last kill: give it more steps"
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    losses = read_losses(tmp_path / "uninterrupted")
    assert len(losses) == STEPS
    assert read_losses(tmp_path / "killed") == losses
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("uninterrupted", "killed")]
    assert weights[0] == weights[1]


@pytest.mark.all
def test_a_full_disk_keeps_the_last_good_state(small_disk: Path) -> None:
    prepare_tokens(small_disk)
    # A model of 2.5 MB with its optimizer state: the first state fits, the second does not.
    process = subprocess.run(
        train_command("run", 5000, "model.width=128", "training.compile=false"),
        cwd=small_disk,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2, process.stderr
    assert "Traceback" not in process.stderr
    assert "free some space" in process.stderr.splitlines()[-1]
    assert not list(small_disk.rglob("*.tmp"))
    state = find_latest_state(small_disk / "run")
    assert state is not None
    for name in ("model", "optimizer"):
        assert load_file(state / f"{name}.safetensors")


@pytest.mark.all
def test_a_pre_empted_run_saves_its_last_step_and_equals_an_uninterrupted_run(tmp_path: Path) -> None:
    prepare_tokens(tmp_path)
    settings = ("training.compile=false", "training.checkpoint_seconds=1000")
    run_command(train_command("uninterrupted", 300, *settings), tmp_path)
    out = tmp_path / "stopped"
    process = subprocess.Popen(
        train_command("stopped", 300, *settings), cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    while not ((out / "metrics.jsonl").exists() and len(read_rows(out / "metrics.jsonl")[0]) > 20):
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2, stderr
    assert "the same command" in stderr.splitlines()[-1]
    state = find_latest_state(out)
    assert state is not None
    assert state.name == f"step-{len(read_metrics(out)):08d}"
    assert len(read_metrics(out)) < 300
    run_command(train_command("stopped", 300, *settings), tmp_path)
    assert read_losses(out) == read_losses(tmp_path / "uninterrupted")
