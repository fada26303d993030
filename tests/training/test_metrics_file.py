"""metrics.jsonl is written, interrupted, resumed and read."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from smalltale.errors import FileProblem
from smalltale.training.metrics_file import MetricsFile, read_metrics, read_rows


def metrics_row(step: int) -> dict[str, float]:
    return {"step": step, "tokens": step * 100, "loss": 9.0 - step}


def read_steps(folder: Path) -> list[int]:
    return [row["step"] for row in read_metrics(folder)]


def test_each_row_is_on_disk_as_soon_as_it_is_appended(tmp_path: Path) -> None:
    with MetricsFile(tmp_path / "metrics.jsonl") as metrics:
        for step in (1, 2):
            metrics.append(metrics_row(step))
            assert read_steps(tmp_path)[-1] == step


def test_several_lines_of_a_step_are_read_as_one_row(tmp_path: Path) -> None:
    with MetricsFile(tmp_path / "metrics.jsonl") as metrics:
        metrics.append(metrics_row(1))
        metrics.append({"step": 1, "bits_per_byte": 2.5})
        metrics.append(metrics_row(2))
    assert read_metrics(tmp_path) == [{**metrics_row(1), "bits_per_byte": 2.5}, metrics_row(2)]


def test_a_resumed_run_drops_the_rows_it_computes_again(tmp_path: Path) -> None:
    with MetricsFile(tmp_path / "metrics.jsonl") as metrics:
        for step in range(1, 6):
            metrics.append(metrics_row(step))
    with MetricsFile(tmp_path / "metrics.jsonl") as metrics:
        metrics.truncate_after(3)
        metrics.append(metrics_row(4))
        metrics.sync()
    assert read_steps(tmp_path) == [1, 2, 3, 4]


def test_a_torn_last_line_is_ignored_by_readers_and_removed_by_the_writer(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(metrics_row(1)) + "\n" + json.dumps(metrics_row(2))[:20])
    assert read_steps(tmp_path) == [1]
    with MetricsFile(path) as metrics:
        metrics.append(metrics_row(2))
    assert read_steps(tmp_path) == [1, 2]
    assert read_rows(path)[1] == ""


def test_a_broken_line_in_the_middle_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{json.dumps(metrics_row(1))}\n\x00\x00garbage\n[3]\n{json.dumps(metrics_row(2))}\n")
    rows, problem = read_rows(path)
    assert [row["step"] for row in rows] == [1, 2]
    assert problem == "2 unreadable lines, the first is line 2"
    with pytest.raises(FileProblem, match="line 2"):
        read_metrics(tmp_path)


def test_an_empty_file_is_reported_as_a_run_without_a_step(tmp_path: Path) -> None:
    MetricsFile(tmp_path / "metrics.jsonl").close()
    with pytest.raises(FileProblem, match="has not finished a step yet"):
        read_metrics(tmp_path)


def test_a_full_disk_leaves_complete_lines(small_disk: Path) -> None:
    path = small_disk / "metrics.jsonl"
    with MetricsFile(path) as metrics, pytest.raises(FileProblem, match="free some space"):
        for step in range(1, 10_000_000):
            metrics.append({"step": step, "filler": "x" * 5000})
    assert path.read_bytes().endswith(b"\n")
    assert read_rows(path)[1] == ""


def test_a_kill_at_any_moment_leaves_complete_lines(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom smalltale.training.metrics_file import MetricsFile\n"
        "metrics = MetricsFile(Path(sys.argv[1]))\nstep = 0\n"
        "while True:\n    step += 1\n    metrics.append({'step': step, 'loss': 1.0 / step})\n"
    )
    for number in range(5):
        path = tmp_path / f"{number}.jsonl"
        writer = subprocess.Popen([sys.executable, "-c", code, str(path)])
        while not path.exists() or path.stat().st_size < 1000 * (number + 1):
            time.sleep(0.005)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        rows, problem = read_rows(path)
        assert not problem
        assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
        assert path.read_bytes().endswith(b"\n")
