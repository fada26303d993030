"""`smalltale generate` as a user runs it: invalid input, killed runs, and the content of submission.json."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from smalltale.cli import main
from smalltale.metrics.memorization import longest_copies
from smalltale.model.serialization import write_model
from smalltale.model.transformer import ModelConfig, Transformer
from smalltale.prompts import write_prompts
from smalltale.submission import read_submission
from smalltale.tokens.tokenizer import TokenizerConfig, train_tokenizer

STORIES = ["Mia has a red kite. The kite flies up.", "A small dog ran home. It was happy."] * 5
PROMPTS = ["Mia has", "A small dog", "The kite", "It was"]

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny smalltale model with random weights."""
    folder = tmp_path_factory.mktemp("run") / "checkpoint"
    tokenizer = train_tokenizer(STORIES, TokenizerConfig(vocabulary=290))
    tokenizer.save(folder)
    torch.manual_seed(0)
    model = Transformer(ModelConfig(vocabulary=290, layers=2, width=32, heads=2, context=128))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    write_model(folder, model.config, model.state_dict(), {"counted_parameters": 1, "weight_class": "small"})
    record = {"kind": "checkpoint", "trained_from_scratch": True, "hardware": {"name": "a toaster"}}
    (folder / "meta.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


@pytest.fixture
def smalltale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command like its entry point; returns exit code, standard output and standard error."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("OMP_WAIT_POLICY", "passive")  # so that the command's own setting is undone
        monkeypatch.setattr(sys, "argv", ["smalltale", *words])
        try:
            main()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        return (code, *capsys.readouterr())

    return run


def generate_words(checkpoint: Path, *more: str) -> tuple[str, ...]:
    """The arguments that the tests share."""
    small = ("--set", "generation.max_tokens=12", "--set", "generation.dtype=float32")
    return ("generate", str(checkpoint), "--prompts", "p.jsonl", "--out", "a.csv", *small, *more)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (json.dumps({"prompt": "kite " * 200}), "the model reads 128; shorten it"),
        (json.dumps({"prompt": ""}), "prompt 1 is not text"),
        (json.dumps({"prompt": "\u200b\u2060"}), "a prompt is empty"),
        ("", "p.jsonl is empty; give a file"),
        ("\n\n", "p.jsonl is empty; give a file"),
    ],
)
def test_invalid_prompts_are_reported_in_one_line(
    checkpoint: Path, tmp_path: Path, smalltale: Command, prompts: str, message: str
) -> None:
    (tmp_path / "p.jsonl").write_text(prompts, encoding="utf-8")
    code, _, err = smalltale(*generate_words(checkpoint))
    assert (code, err.count("\n")) == (2, 1), err
    assert err.startswith("smalltale: ")
    assert message in err
    assert not (tmp_path / "a.csv").exists()


def test_unknown_characters_are_encoded_as_bytes(
    checkpoint: Path, tmp_path: Path, smalltale: Command
) -> None:
    write_prompts(tmp_path / "p.jsonl", ["Лили 🦊 sah einen Drachen", "Zoë “the cat”"])
    assert smalltale(*generate_words(checkpoint))[0] == 0
    assert len(read_submission(tmp_path / "a.csv")) == 8


def test_a_checkpoint_with_nan_logits_is_reported_in_one_line(
    checkpoint: Path, tmp_path: Path, smalltale: Command
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in checkpoint.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    shape = ModelConfig(vocabulary=290, layers=2, width=32, heads=2, context=128)
    model = Transformer(shape)
    torch.nn.init.constant_(model.embedding.weight, float("nan"))
    write_model(broken, shape, model.state_dict(), {})
    write_prompts(tmp_path / "p.jsonl", PROMPTS)
    for dtype in ("float32", "bfloat16"):
        code, _, err = smalltale(*generate_words(broken, "--set", f"generation.dtype={dtype}"))
        assert code == 2
        assert "the model gives NaN; its training has diverged, train it again" in err
        assert not (tmp_path / "a.csv").exists()


def test_the_declaration_has_the_machine_that_doctor_reports(
    checkpoint: Path, tmp_path: Path, smalltale: Command
) -> None:
    write_prompts(tmp_path / "p.jsonl", PROMPTS)
    assert smalltale(*generate_words(checkpoint))[0] == 0
    declaration = json.loads((tmp_path / "submission.json").read_text())
    machine = json.loads(smalltale("doctor", "--json")[1])["machine"]
    del machine["matrix rate"]  # measured, so it differs each time
    assert declaration["hardware"] == machine
    assert declaration["trained_on"] == {"name": "a toaster"}
    assert (declaration["trained_from_scratch"], declaration["weight_class"]) == (True, "small")
    assert declaration["sampling"]["max_tokens"] == 12
    assert smalltale("submission", "check", "a.csv", "--prompts", "p.jsonl")[0] == 0


def test_best_of_n_chooses_by_signals_and_shows_them(
    checkpoint: Path, tmp_path: Path, smalltale: Command
) -> None:
    write_prompts(tmp_path / "p.jsonl", PROMPTS)
    best_of_six = ("--best-of", "6", "--set", "generation.max_tokens=60")
    _, output, _ = smalltale(*generate_words(checkpoint, *best_of_six))
    assert "not measured" in output
    assert "uncopied" in output
    # with the first choice as training text, it must not be chosen again
    first = [row.completion for row in read_submission(tmp_path / "a.csv")]
    (tmp_path / "trained.txt").write_text("\n<|endoftext|>\n".join(first), encoding="utf-8")
    _, output, _ = smalltale(*generate_words(checkpoint, *best_of_six, "--copied-from", "trained.txt"))
    assert "not measured" not in output
    again = [row.completion for row in read_submission(tmp_path / "a.csv")]
    assert sum(longest_copies(again, first)) < sum(longest_copies(first, first))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--copied-from", "p.jsonl"), "add --best-of"),
        (("--copied-from", "none.txt", "--best-of", "8"), "none.txt does not exist"),
        (("--copied-from", ".", "--best-of", "8"), "meta.json does not exist"),
        (("--best-of", "3"), "best_of = 3 is fewer than samples = 4"),
    ],
)
def test_an_impossible_choice_is_reported_before_anything_is_written(
    checkpoint: Path, tmp_path: Path, smalltale: Command, more: tuple[str, ...], message: str
) -> None:
    write_prompts(tmp_path / "p.jsonl", PROMPTS)
    code, _, err = smalltale(*generate_words(checkpoint, *more))
    assert (code, message in err) == (2, True), err
    assert {file.name for file in tmp_path.iterdir()} == {"p.jsonl"}


def test_a_killed_run_continues_and_writes_the_same_submission(
    checkpoint: Path, tmp_path: Path, smalltale: Command
) -> None:
    write_prompts(tmp_path / "p.jsonl", [f"{prompt} {number}" for prompt in PROMPTS for number in range(25)])
    slow_words = generate_words(checkpoint, "--set", "generation.batch=2")
    journal = tmp_path / ".a.csv.journal.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "smalltale", *slow_words], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if journal.exists() and journal.read_bytes().count(b"\n") > 20:
            break
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(timeout=10) == -signal.SIGKILL, process.communicate()[1]
    process.communicate()
    finished = journal.read_bytes().count(b"\n") - 1
    assert 20 <= finished < 400
    assert not (tmp_path / "a.csv").exists()
    code, _, err = smalltale(*slow_words)
    assert code == 0
    assert f"100 %  {400 - finished}/{400 - finished} stories" in err
    assert not journal.exists()
    resumed = read_submission(tmp_path / "a.csv")
    assert smalltale(*generate_words(checkpoint))[0] == 0
    assert read_submission(tmp_path / "a.csv") == resumed
