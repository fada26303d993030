"""`smalltale generate` as a user runs it: bad input in one clear line, kills, and what stands in submission.json."""

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
    """A tiny model of ours that writes at random."""
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
    """The command as its entry point runs it: exit code, standard output, standard error."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("OMP_WAIT_POLICY", "passive")  # so that what the verb sets is gone afterwards
        monkeypatch.setattr(sys, "argv", ["smalltale", *words])
        try:
            main()
            code = 0
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 1
        return (code, *capsys.readouterr())

    return run


def words_of(checkpoint: Path, *more: str) -> tuple[str, ...]:
    """The command that the tests share."""
    small = ("--set", "generation.max_tokens=12", "--set", "generation.dtype=float32")
    return ("generate", str(checkpoint), "--prompts", "p.jsonl", "--out", "a.csv", *small, *more)


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        (json.dumps({"prompt": "kite " * 200}), "the model reads 128; shorten it"),
        (json.dumps({"prompt": ""}), "prompt 1 is not text"),
        (json.dumps({"prompt": "\u200b\u2060"}), "a prompt is empty"),
        ("", "p.jsonl is empty; give a file"),
        ("\n\n", "p.jsonl is empty; give a file"),
    ],
)
def test_prompts_that_cannot_be_completed_are_one_clear_line(
    checkpoint: Path, tmp_path: Path, smalltale: Command, prompts: str, says: str
) -> None:
    (tmp_path / "p.jsonl").write_text(prompts, encoding="utf-8")
    code, _, err = smalltale(*words_of(checkpoint))
    assert (code, err.count("\n")) == (2, 1), err
    assert err.startswith("smalltale: ")
    assert says in err
    assert not (tmp_path / "a.csv").exists()


def test_characters_that_no_training_text_had_are_read_byte_by_byte(
    checkpoint: Path, tmp_path: Path, smalltale: Command
) -> None:
    write_prompts(tmp_path / "p.jsonl", ["Лили 🦊 sah einen Drachen", "Zoë “the cat”"])
    assert smalltale(*words_of(checkpoint))[0] == 0
    assert len(read_submission(tmp_path / "a.csv")) == 8


def test_a_checkpoint_that_writes_nan_is_one_clear_line(
    checkpoint: Path, tmp_path: Path, smalltale: Command
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for each in checkpoint.iterdir():
        (broken / each.name).write_bytes(each.read_bytes())
    shape = ModelConfig(vocabulary=290, layers=2, width=32, heads=2, context=128)
    model = Transformer(shape)
    torch.nn.init.constant_(model.embedding.weight, float("nan"))
    write_model(broken, shape, model.state_dict(), {})
    write_prompts(tmp_path / "p.jsonl", PROMPTS)
    for dtype in ("float32", "bfloat16"):
        code, _, err = smalltale(*words_of(broken, "--set", f"generation.dtype={dtype}"))
        assert code == 2
        assert "the model gives NaN; its training has diverged, train it again" in err
        assert not (tmp_path / "a.csv").exists()


def test_a_hand_in_is_declared_with_the_machine_as_doctor_sees_it(
    checkpoint: Path, tmp_path: Path, smalltale: Command
) -> None:
    write_prompts(tmp_path / "p.jsonl", PROMPTS)
    assert smalltale(*words_of(checkpoint))[0] == 0
    declared = json.loads((tmp_path / "submission.json").read_text())
    machine = json.loads(smalltale("doctor", "--json")[1])["machine"]
    del machine["matrix rate"]  # measured, so another one each time
    assert declared["hardware"] == machine
    assert declared["trained_on"] == {"name": "a toaster"}
    assert (declared["trained_from_scratch"], declared["weight_class"]) == (True, "small")
    assert declared["sampling"]["max_tokens"] == 12
    assert smalltale("submission", "check", "a.csv", "--prompts", "p.jsonl")[0] == 0


def test_the_best_of_many_are_chosen_by_signals_that_are_shown(
    checkpoint: Path, tmp_path: Path, smalltale: Command
) -> None:
    write_prompts(tmp_path / "p.jsonl", PROMPTS)
    many = ("--best-of", "6", "--set", "generation.max_tokens=60")
    _, shown, _ = smalltale(*words_of(checkpoint, *many))
    assert "not looked at" in shown
    assert "uncopied" in shown
    # the whole first choice as training text: it must not be chosen again
    first = [row.completion for row in read_submission(tmp_path / "a.csv")]
    (tmp_path / "trained.txt").write_text("\n<|endoftext|>\n".join(first), encoding="utf-8")
    _, shown, _ = smalltale(*words_of(checkpoint, *many, "--copied-from", "trained.txt"))
    assert "not looked at" not in shown
    again = [row.completion for row in read_submission(tmp_path / "a.csv")]
    assert sum(longest_copies(again, first)) < sum(longest_copies(first, first))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--copied-from", "p.jsonl"), "add --best-of"),
        (("--copied-from", "none.txt", "--best-of", "8"), "none.txt does not exist"),
        (("--copied-from", ".", "--best-of", "8"), "meta.json does not exist"),
        (("--best-of", "3"), "best_of = 3 is fewer than samples = 4"),
    ],
)
def test_a_choice_that_cannot_be_made_is_named_before_anything_is_written(
    checkpoint: Path, tmp_path: Path, smalltale: Command, more: tuple[str, ...], says: str
) -> None:
    write_prompts(tmp_path / "p.jsonl", PROMPTS)
    code, _, err = smalltale(*words_of(checkpoint, *more))
    assert (code, says in err) == (2, True), err
    assert {each.name for each in tmp_path.iterdir()} == {"p.jsonl"}


def test_a_killed_run_goes_on_where_it_was_and_writes_the_same(
    checkpoint: Path, tmp_path: Path, smalltale: Command
) -> None:
    write_prompts(tmp_path / "p.jsonl", [f"{prompt} {number}" for prompt in PROMPTS for number in range(25)])
    slowly = words_of(checkpoint, "--set", "generation.batch=2")
    journal = tmp_path / ".a.csv.journal.jsonl"
    running = subprocess.Popen(
        [sys.executable, "-m", "smalltale", *slowly], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 60
    while running.poll() is None and time.monotonic() < until:
        if journal.exists() and journal.read_bytes().count(b"\n") > 20:
            break
        time.sleep(0.005)
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait(timeout=10) == -signal.SIGKILL, running.communicate()[1]
    running.communicate()
    kept = journal.read_bytes().count(b"\n") - 1
    assert 20 <= kept < 400
    assert not (tmp_path / "a.csv").exists()
    code, _, err = smalltale(*slowly)
    assert code == 0
    assert f"100 %  {400 - kept}/{400 - kept} stories" in err
    assert not journal.exists()
    resumed = read_submission(tmp_path / "a.csv")
    assert smalltale(*words_of(checkpoint))[0] == 0
    assert read_submission(tmp_path / "a.csv") == resumed
