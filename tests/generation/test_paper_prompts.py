"""The TinyStories paper's prompts: train a model of the demo's size, generate, check and measure a submission."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.all
def test_176_completions_are_generated_checked_and_measured_in_under_a_minute(
    shared_data: Path, tmp_path: Path
) -> None:
    stories, prompts = shared_data / "TinyStories-train.sample.txt", shared_data / "paper_prompts.yaml"

    def smalltale(*arguments: str | Path) -> str:
        command = [sys.executable, "-m", "smalltale", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    # A short training: such a model ends fewer stories than the demo's, so it generates more tokens.
    short_training = ("--minutes", "0.3", "--no-judge", "--set", "training.compile=false")
    smalltale("demo", "--stories", stories, "--out", "demo", *short_training)
    started = time.monotonic()
    smalltale("generate", "demo/checkpoint", "--prompts", prompts, "--out", "a.csv")
    verdict = json.loads(smalltale("submission", "check", "a.csv", "--prompts", prompts, "--json"))
    metrics = json.loads(smalltale("measure", "a.csv", "--training", "demo/corpus", "--json"))
    assert time.monotonic() - started < 60
    assert (verdict["accepted"], verdict["rows"]) == (True, 176)
    assert (metrics["prompts"], len(metrics["rows"])) == (44, 176)
    assert metrics["words"] > 20
    assert metrics["copied_share"] < 0.2
