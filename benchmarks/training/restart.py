"""A rank killed half-way: does the run go on by itself, and end where an unbroken one ends?

In: a token folder and its tokenizer, a machine of several GPUs (or processors). Out: results/restart-DEVICE.json and a line of
JSON: the losses of one rank, of all ranks, and of all ranks where one was killed with SIGKILL in the middle (torchrun starts
them again, and they go on from the last checkpoint); the curves' largest distance.
Beware: ranks share one global batch, so all three runs read the same rows; NVLink multicast stays off.

    python -m benchmarks.training.restart --tokens FOLDER --tokenizer FOLDER [--ranks 2] [--recipe small] [--steps 600] [--quick]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.training.scaling import NO_MULTICAST

from smalltale.files import git_commit
from smalltale.training.device import choose_device

HERE = Path(__file__).parents[1]


def losses(run: Path) -> dict[int, float]:
    """The loss of each step in a run's metrics."""
    found = {}
    path = run / "metrics.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:  # the line that is just being written
            break
        if row.get("loss") is not None:
            found[row["step"]] = row["loss"]
    return found


def workers(parent: int) -> list[int]:
    """The processes that torchrun started, by its process id. Linux only."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            if int((each / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(each.name))
        except (OSError, ValueError):
            continue
    return sorted(found)


def train(chosen: argparse.Namespace, out: Path, ranks: int, kill_at: int = 0) -> float:
    """One run into `out`. Returns its seconds, start included. Ends the program where it fails."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    words += [f"--nproc-per-node={ranks}", "--max-restarts=3", "-m", "smalltale"]
    words += [
        "train",
        chosen.recipe,
        "--tokens",
        chosen.tokens,
        "--tokenizer",
        chosen.tokenizer,
        "--out",
        out,
    ]
    settings = {
        "training.schedule.minutes": 0,
        "training.schedule.steps": chosen.steps,
        "training.checkpoint_seconds": chosen.checkpoint_seconds,
        "training.validation_stories": 50,
        "model.vocabulary": json.loads((chosen.tokens / "meta.json").read_text())["vocabulary"],
    }
    for key, value in settings.items():
        words += ["--set", f"{key}={value}"]
    began = time.perf_counter()
    log = out.with_suffix(".log").open("wb")
    running = subprocess.Popen(
        [str(each) for each in words],
        env={**os.environ, **NO_MULTICAST, "OMP_NUM_THREADS": "1"},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    while running.poll() is None:
        time.sleep(0.05)
        if kill_at and max(losses(out), default=0) >= kill_at:
            os.kill(workers(running.pid)[-1], signal.SIGKILL)
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
    parser.add_argument("--quick", action="store_true", help="30 steps")
    parser.add_argument("--commit", default=git_commit(), help="where there is no git")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    chosen.steps = 30 if chosen.quick else chosen.steps
    with tempfile.TemporaryDirectory() as held:
        places = {name: Path(held) / name for name in ("one", "all", "killed")}
        seconds = {
            "one": train(chosen, places["one"], 1),
            "all": train(chosen, places["all"], chosen.ranks),
            "killed": train(chosen, places["killed"], chosen.ranks, kill_at=chosen.steps // 2),
        }
        found = {name: losses(place) for name, place in places.items()}
        bits = {
            name: json.loads((place / "meta.json").read_text(encoding="utf-8")).get("bits_per_byte")
            for name, place in places.items()
        }

    def apart(left: str, right: str) -> float:
        return round(max(abs(found[left][step] - found[right][step]) for step in found[left]), 4)

    device = choose_device("auto")
    result: dict[str, Any] = {
        "ranks": chosen.ranks,
        "last_loss": {name: round(curve[max(curve)], 4) for name, curve in found.items()},
        "steps_logged": {name: len(curve) for name, curve in found.items()},
        "largest_distance_one_to_all": apart("one", "all"),
        "largest_distance_all_to_killed": apart("all", "killed"),
        "bits_per_byte": bits,
        "seconds": seconds,
        "recipe": chosen.recipe,
        "machine": device.name,
        "versions": {"torch": importlib.metadata.version("torch")},
        "commit": chosen.commit,
        "quick": chosen.quick,
    }
    out = chosen.out or HERE / "results" / f"restart-{device.kind}.json"
    out.write_text(json.dumps({**result, "curves": found}) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
