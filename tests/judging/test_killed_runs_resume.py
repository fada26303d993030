"""Killed at any moment, a run goes on and ends as one never killed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from loopback import Said, answer, chat, serving, text_of

from smalltale.submission import Completion, write_submission

KILLS = 4


def slow(request: dict[str, Any], before: int) -> Said:
    mark = 1 + len(text_of(request)) % 10
    return Said(chat(answer(request, plot=mark)), wait_seconds=0.2)


@pytest.mark.all
def test_a_run_killed_again_and_again_ends_as_one_never_killed(tmp_path: Path) -> None:
    hand_in = tmp_path / "s.jsonl"
    write_submission(hand_in, [Completion(f"Prompt {n // 4}", "word " * n + "end.") for n in range(120)], {})
    draw = random.Random(1)
    with serving(slow) as server:

        def run(out: str) -> subprocess.Popen[bytes]:
            command = [
                sys.executable,
                "-m",
                "smalltale",
                "judge",
                "run",
                str(hand_in),
                "--judge",
                f"{server.url}#m",
            ]
            return subprocess.Popen(
                [*command, "--out", str(tmp_path / out), "--set", "judging.concurrency=8"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

        assert run("whole").wait(120) == 0
        before = len(server.asked)
        for _ in range(KILLS):
            process = run("killed")
            try:
                process.wait(draw.uniform(0.5, 3.0))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
        assert run("killed").wait(120) == 0
        again = len(server.asked) - before
    tables = [pq.read_table(tmp_path / name / "judgements.parquet") for name in ("whole", "killed")]
    assert tables[0].num_rows == 120
    assert tables[0].equals(tables[1])
    assert again <= 120 + 8 * KILLS, "only calls on their way at a kill are made twice"
