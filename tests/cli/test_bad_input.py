"""A user's mistake in any command: one line, exit code 2, no traceback, nothing half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from smalltale.cli import main

GOOD = "Once upon a time there was a cat who sat on a mat and looked at the rain all day long. " * 4


@dataclass(frozen=True)
class Result:
    """Exit code and output of a command."""

    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Result]


@pytest.fixture
def smalltale(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command like its entry point, in `folder`; in this process, because importing torch takes seconds."""

    def run(*words: str) -> Result:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["smalltale", *words])
        try:
            main()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)) * 8)
    (tmp_path / "latin.txt").write_bytes("Zoë ran home. It was late.".encode("latin-1"))
    (tmp_path / "good.txt").write_text(f"{GOOD}\n<|endoftext|>\n{GOOD} The end.\n", encoding="utf-8")
    (tmp_path / "hand.csv").write_text("prompt,completion\nx,y\n", encoding="utf-8")
    (tmp_path / "a-file").write_text("not a folder", encoding="utf-8")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine", encoding="utf-8")
    old = tmp_path / "old"
    old.mkdir()
    (old / "config.json").write_text(
        '{"architecture": "smalltale", "format": 99, "model": {}}', encoding="utf-8"
    )
    return tmp_path


COMMANDS: dict[str, tuple[str, ...]] = {
    "corpus build": ("corpus", "build", "demo", "--source", "{}", "--out", "made"),
    "demo": ("demo", "--stories", "{}", "--out", "made"),
    "tokens train": ("tokens", "train", "{}", "--out", "made"),
    "tokens encode": ("tokens", "encode", "{}", "--tokenizer", "{}", "--out", "made"),
    "train": ("train", "demo", "--tokens", "{}", "--tokenizer", "{}", "--out", "made"),
    "evaluate": ("evaluate", "old", "--text", "{}"),
    "generate": ("generate", "old", "--prompts", "{}", "--out", "made.csv"),
    "submission check": ("submission", "check", "hand.csv", "--prompts", "{}"),
    "judge run": ("judge", "run", "{}", "--judge", "local", "--out", "made"),
    "leaderboard": ("leaderboard", "{}"),
    "count": ("count", "{}"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("file_name", ["missing.txt", "empty.txt", "binary.txt", "latin.txt"])
def test_an_unreadable_file_is_reported_in_one_line(
    folder: Path, smalltale: Command, command: str, file_name: str
) -> None:
    result = smalltale(*(word.replace("{}", file_name) for word in COMMANDS[command]))
    assert_one_error_line(result)
    assert not (folder / "made").exists() or command == "demo"
    assert not (folder / "made.csv").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("corpus", "build", "demo", "--source", "good.txt", "--out", "a-file"), "a-file"),
        (("corpus", "build", "demo", "--source", "good.txt", "--out", "a-file/below"), "a-file"),
        (("corpus", "build", "demo", "--source", "good.txt", "--out", "other"), "not written by smalltale"),
        (("corpus", "build", "demo", "--source", "good.txt", "--out", "/proc/none"), "/proc"),
        (("demo", "--out", "other"), "is not a demo"),
        (("demo", "--set", "training.minuts=3"), "batch_tokens"),
        (("demo", "--set", "modle.width=3"), "did you mean 'model'"),
        (("demo", "--recipe", "dmeo"), "did you mean 'demo'"),
        (("evaluate", "old", "--text", "good.txt"), "format 99"),
        (("count", "old"), "format 99"),
        (("generate", "old", "--prompts", "good.txt", "--out", "made.csv"), "format 99"),
    ],
)
def test_a_mistake_is_reported_with_what_was_found(
    folder: Path, smalltale: Command, words: tuple[str, ...], message: str
) -> None:
    result = smalltale(*words)
    assert_one_error_line(result)
    assert message in result.stderr
    assert (folder / "other" / "notes.txt").read_text() == "mine"


def test_ctrl_c_saves_finished_work_and_the_same_command_continues(folder: Path) -> None:
    words = (sys.executable, "-m", "smalltale", "demo", "--out", "stopped", "--no-judge", "--minutes", "1")
    small = (
        "corpus.stories=300",
        "corpus.validation_share=0.2",
        "tokenizer.vocabulary=400",
        "model.layers=1",
        "model.width=32",
        "training.compile=false",
    )
    settings = [word for setting in small for word in ("--set", setting)]
    # In its own process group: Ctrl-C in a terminal reaches every process of the command.
    process = subprocess.Popen(
        [*words, *settings],
        cwd=folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for _ in range(600):
        if (folder / "stopped" / "checkpoint" / "meta.json").exists():
            break
        time.sleep(0.1)
    time.sleep(1.5)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert "Traceback" not in err
    assert "the same command continues" in err
    assert (folder / "stopped" / "checkpoint" / "training_state").exists()
    assert not list((folder / "stopped").rglob("*.tmp"))


def assert_one_error_line(result: Result) -> None:
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("smalltale: "), result.stderr
    assert ";" in last, "the line does not say how to fix it: " + last
