"""A run that is killed and resumed ends with the same judgements as an uninterrupted one."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from loopback import Response, answer, chat, serving, text_of

from smalltale.submission import Completion, write_submission

KILLS = 4


def slow(request: dict[str, Any], before: int) -> Response:
    mark = 1 + len(text_of(request)) % 10
    return Response(chat(answer(request, plot=mark)), wait_seconds=0.2)


@pytest.mark.all
def test_a_repeatedly_killed_run_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    submission = tmp_path / "s.jsonl"
    write_submission(
        submission, [Completion(f"Prompt {n // 4}", "word " * n + "end.") for n in range(120)], {}
    )
    draw = random.Random(1)
    with serving(slow) as server:

        def run(out: str) -> subprocess.Popen[bytes]:
            command = [
                sys.executable,
                "-m",
                "smalltale",
                "judge",
                "run",
                str(submission),
                "--judge",
                f"{server.url}#m",
            ]
            return subprocess.Popen(
                [*command, "--out", str(tmp_path / out), "--set", "judging.concurrency=8"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

        assert run("uninterrupted").wait(120) == 0
        before = len(server.requests)
        for _ in range(KILLS):
            process = run("killed")
            try:
                process.wait(draw.uniform(0.5, 3.0))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
        assert run("killed").wait(120) == 0
        repeated_calls = len(server.requests) - before
    tables = [pq.read_table(tmp_path / name / "judgements.parquet") for name in ("uninterrupted", "killed")]
    assert tables[0].num_rows == 120
    assert tables[0].equals(tables[1])
    assert repeated_calls <= 120 + 8 * KILLS, "only calls in flight at a kill are repeated"
