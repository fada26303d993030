"""A rank is killed in the middle of training: does the run resume by itself and end like an uninterrupted one?

Input: a token folder and its tokenizer, a machine with several GPUs (or cores). Output: results/restart-DEVICE.json and a line of
JSON: the losses of one rank, of all ranks, and of all ranks with one killed by SIGKILL in the middle (torchrun restarts them, and
they resume from the last checkpoint), and the largest distance between these curves.
Ranks share one global batch, so all three runs read the same rows. NVLink multicast stays off.

    python -m benchmarks.training.restart --tokens FOLDER --tokenizer FOLDER [--ranks 2] [--recipe small] [--steps 600] [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.lib.records import RESULTS, add_record_arguments, provenance, write_record
from benchmarks.training.scaling import NO_MULTICAST
from smalltale.training.device import choose_device
from smalltale.training.metrics_file import METRICS_NAME, read_rows


def read_by_step(run: Path, metric: str) -> dict[int, float]:
    """One metric by step, from a run's metrics.jsonl; empty before the run has written it."""
    path = run / METRICS_NAME
    rows = read_rows(path)[0] if path.exists() else []
    return {row["step"]: row[metric] for row in rows if metric in row}


def child_processes(parent: int) -> list[int]:
    """Process ids of torchrun's workers. Linux only."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if int((process / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                pids.append(int(process.name))
        except (OSError, ValueError):
            continue
    return sorted(pids)


def train(arguments: argparse.Namespace, out: Path, ranks: int, kill_at: int = 0) -> float:
    """Train into `out`. Returns the seconds, start included. Exits if training fails."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    words += [f"--nproc-per-node={ranks}", "--max-restarts=3", "-m", "smalltale"]
    words += ["train", arguments.recipe, "--tokens", arguments.tokens]
    words += ["--tokenizer", arguments.tokenizer, "--out", out]
    settings = {
        "training.schedule.minutes": 0,
        "training.schedule.steps": arguments.steps,
        "training.checkpoint_seconds": arguments.checkpoint_seconds,
        "training.validation_stories": 50,
        "model.vocabulary": json.loads((arguments.tokens / "meta.json").read_text())["vocabulary"],
    }
    for key, value in settings.items():
        words += ["--set", f"{key}={value}"]
    began = time.perf_counter()
    log = out.with_suffix(".log").open("wb")
    running = subprocess.Popen(
        [str(word) for word in words],
        env={**os.environ, **NO_MULTICAST, "OMP_NUM_THREADS": "1"},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    while running.poll() is None:
        time.sleep(0.05)
        if kill_at and max(read_by_step(out, "loss"), default=0) >= kill_at:
            os.kill(child_processes(running.pid)[-1], signal.SIGKILL)
            kill_at = 0
    if running.returncode or kill_at:
        sys.exit(out.with_suffix(".log").read_text(encoding="utf-8", errors="replace")[-6000:])
    return round(time.perf_counter() - began, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--checkpoint-seconds", type=float, default=2.0)
    add_record_arguments(parser)
    arguments = parser.parse_args()
    arguments.steps = 30 if arguments.quick else arguments.steps
    with tempfile.TemporaryDirectory() as name:
        folders = {run: Path(name) / run for run in ("one", "all", "killed")}
        seconds = {
            "one": train(arguments, folders["one"], 1),
            "all": train(arguments, folders["all"], arguments.ranks),
            "killed": train(arguments, folders["killed"], arguments.ranks, kill_at=arguments.steps // 2),
        }
        curves = {run: read_by_step(folder, "loss") for run, folder in folders.items()}
        bits = {run: read_by_step(folder, "bits_per_byte") for run, folder in folders.items()}

    def largest_distance(left: str, right: str) -> float:
        return round(max(abs(curves[left][step] - curves[right][step]) for step in curves[left]), 4)

    device = choose_device("auto")
    result: dict[str, Any] = {
        "ranks": arguments.ranks,
        "last_loss": {name: round(curve[max(curve)], 4) for name, curve in curves.items()},
        "steps_logged": {name: len(curve) for name, curve in curves.items()},
        "largest_distance_one_to_all": largest_distance("one", "all"),
        "largest_distance_all_to_killed": largest_distance("all", "killed"),
        "bits_per_byte": {run: by_step.get(max(by_step, default=0)) for run, by_step in bits.items()},
        "seconds": seconds,
        "recipe": arguments.recipe,
        **provenance(("torch",), arguments.commit),
        "device": device.name,
        "quick": arguments.quick,
    }
    out = arguments.out or RESULTS / f"restart-{device.kind}.json"
    write_record(out, {**result, "curves": curves}, result)


if __name__ == "__main__":
    main()
