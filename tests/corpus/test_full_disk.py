"""A build on a full disk, on machines that allow the test to mount a small one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from smalltale.corpus.corpus_folder import read_corpus


@pytest.mark.all
def test_a_full_disk_is_explained_and_the_build_resumes_after_space_is_freed(small_disk: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "smalltale",
        "corpus",
        "build",
        "demo",
        "--out",
        "c",
        "--set",
        "corpus.stories=9000",
    ]
    full = subprocess.run(command, cwd=small_disk, capture_output=True, text=True)
    assert full.returncode == 2
    assert "No space left on device; free some space" in full.stderr
    assert "Traceback" not in full.stderr
    assert not (small_disk / "c").exists()
    subprocess.run(["mount", "-o", "remount,size=60M", str(small_disk)], check=True)
    again = subprocess.run(command, cwd=small_disk, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "resuming the build" in again.stderr
    assert sum(1 for split in ("train", "val") for _ in read_corpus(small_disk / "c", split)) == 9000  # type: ignore[arg-type]
