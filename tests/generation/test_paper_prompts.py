"""The paper's prompts and real stories, from a model of the demo's size to a measured hand-in."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.all
def test_176_completions_are_written_checked_and_measured_in_under_a_minute(
    shared_data: Path, tmp_path: Path
) -> None:
    stories, prompts = shared_data / "TinyStories-train.sample.txt", shared_data / "paper_prompts.yaml"

    def smalltale(*words: str | Path) -> str:
        command = [sys.executable, "-m", "smalltale", *map(str, words)]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    # a short training: such a model ends fewer stories than the demo's and so writes more
    quickly = ("--minutes", "0.3", "--no-judge", "--set", "training.compile=false")
    smalltale("demo", "--stories", stories, "--out", "demo", *quickly)
    began = time.monotonic()
    smalltale("generate", "demo/checkpoint", "--prompts", prompts, "--out", "a.csv")
    verdict = json.loads(smalltale("submission", "check", "a.csv", "--prompts", prompts, "--json"))
    measures = json.loads(smalltale("measure", "a.csv", "--training", "demo/corpus", "--json"))
    assert time.monotonic() - began < 60
    assert (verdict["accepted"], verdict["rows"]) == (True, 176)
    assert (measures["prompts"], len(measures["rows"])) == (44, 176)
    assert measures["words"] > 20
    assert measures["copied_share"] < 0.2
