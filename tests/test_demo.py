"""`smalltale demo`: all stages, through the command that a user runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

TINY = [
    "corpus.stories=200",
    "corpus.validation_share=0.2",
    "tokenizer.vocabulary=400",
    "model.layers=2",
    "model.width=64",
    "model.context=256",
    "training.row_length=256",
    "training.batch_tokens=1024",
    "training.micro_batch_tokens=1024",
    "training.compile=false",
    "training.evaluations=1",
    "training.validation_stories=5",
    "generation.max_tokens=40",
]
"""Overrides that make the demo's recipe run in seconds."""


def smalltale(
    *words: str, folder: Path, command: tuple[str, ...] = (sys.executable, "-m", "smalltale")
) -> subprocess.CompletedProcess[str]:
    """Run the command in `folder`."""
    return subprocess.run([*command, *words], cwd=folder, capture_output=True, text=True, timeout=280)


def tiny_demo(
    folder: Path, *more: str, command: tuple[str, ...] = (sys.executable, "-m", "smalltale")
) -> subprocess.CompletedProcess[str]:
    settings = [word for setting in TINY for word in ("--set", setting)]
    return smalltale(
        "demo",
        "--minutes",
        "0.05",
        "--out",
        "out",
        "--no-judge",
        *settings,
        *more,
        folder=folder,
        command=command,
    )


def test_two_hundred_stories_become_a_checked_submission(tmp_path: Path) -> None:
    result = tiny_demo(tmp_path)
    assert result.returncode == 0, result.stderr
    out = tmp_path / "out"
    for file in (
        "corpus/meta.json",
        "tokenizer/tokenizer.json",
        "tokens/train.bin",
        "checkpoint/model.safetensors",
        "checkpoint/metrics.jsonl",
        "prompts.jsonl",
        "submission.csv",
        "submission.json",
        "report.html",
    ):
        assert (out / file).stat().st_size > 0, file
    declaration = json.loads((out / "submission.json").read_text())
    assert declaration["weight_class"] == "small"
    # Embedding 400 x 64 and two layers of 12 x 64 x 64, with two scalars each.
    assert declaration["counted_parameters"] == 400 * 64 + 2 * (12 * 64 * 64 + 2)
    assert "\r" not in result.stderr
    assert "32 different completions" in result.stdout
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert "smalltale train small" in page

    evaluated = smalltale(
        "evaluate", "out/checkpoint", "--text", "stories.txt", "--json", folder=with_stories(tmp_path)
    )
    assert evaluated.returncode == 0, evaluated.stderr
    assert 0 < json.loads(evaluated.stdout)["bits_per_byte"] < 8

    rerun = tiny_demo(tmp_path)
    assert rerun.returncode == 0, rerun.stderr


def with_stories(folder: Path) -> Path:
    (folder / "stories.txt").write_text("A cat sat.\n<|endoftext|>\nA dog ran home.\n", encoding="utf-8")
    return folder
