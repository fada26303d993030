"""Trains an export folder in its framework's environment and reads the run's losses and speed.

Input: an export folder. Output: the checkpoint in it, and a FrameworkRun.
The recipe's shell lines run the framework's own code; only its environment isolates it from ours. The speed is the median over
windows of 10 steps without the first window; LitGPT, nanoGPT and llama2.c report the time of each step themselves.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO

from smalltale.errors import FileProblem, SmalltaleError
from smalltale.files import read_json
from smalltale.frameworks.framework import Framework, get_framework
from smalltale.frameworks.install import checkout_variable, environment_variables, require_environment
from smalltale.frameworks.reading import find_upwards

WINDOW = 10
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "WANDB_MODE": "disabled",
    "TOKENIZERS_PARALLELISM": "false",
}
"""A run needs no network; these settings also turn off telemetry (Axolotl has it on by default)."""


@dataclass(frozen=True, kw_only=True)
class FrameworkRun:
    """The loss of each step, and tokens per second (None if the run was too short to measure)."""

    losses: list[float]
    tokens_per_second: float | None


def train(
    framework: Framework, folder: Path, variables: Mapping[str, str], output: IO[str] | None = None
) -> None:
    """Run the recipe's shell lines in an export folder; `output` receives what they print (default: the terminal).

    Raises SmalltaleError if a line fails.
    """
    inherited = environment_variables(require_environment(framework))
    environment = {**inherited, **checkout_variable(framework), **OFFLINE, **variables}
    command = ["bash", "-c", "set -e\n" + "\n".join(framework.train)]
    stderr = output and subprocess.STDOUT
    completed = subprocess.run(
        command, cwd=folder, env=environment, stdout=output, stderr=stderr, check=False
    )
    if status := completed.returncode:
        raise SmalltaleError(
            f"{framework.title} ended with status {status} in {folder}; see its output above"
        )


def read_export_framework(folder: Path) -> Framework:
    """Read which framework an export folder was written for. Raises FileProblem."""
    meta = read_json(folder / "meta.json")
    if not isinstance(meta, dict) or meta.get("kind") != "export":
        raise FileProblem(
            f"{folder} is not an export folder; make one: smalltale export TOKENS --for NAME --out FOLDER"
        )
    return get_framework(str(meta.get("framework")))


def read_run(framework: Framework, folder: Path, printed: str) -> FrameworkRun:
    """Read losses and speed of the run in an export folder. Raises FileProblem if it wrote no figures."""
    if framework.step_line is not None:
        steps = framework.step_line.findall(printed)
        plan = read_json(folder / "meta.json")["plan"]
        seconds = [float(milliseconds) / 1000 for _, milliseconds in steps]
        return FrameworkRun(
            losses=[float(loss) for loss, _ in steps],
            tokens_per_second=median_tokens_per_second(seconds, plan["batch_rows"] * plan["context"]),
        )
    path = find_upwards(folder / framework.checkpoint, "run.json")
    if path is None:
        raise FileProblem(f"the run wrote no run.json near {framework.checkpoint}")
    return FrameworkRun(**read_json(path))


def median_tokens_per_second(seconds: Sequence[float], step_tokens: int) -> float | None:
    """Median tokens per second over windows of steps; None if there is no full window after the first."""
    starts = range(WINDOW, len(seconds) - WINDOW + 1, WINDOW)
    windows = [sum(seconds[start : start + WINDOW]) for start in starts]
    return WINDOW * step_tokens / median(windows) if windows else None
