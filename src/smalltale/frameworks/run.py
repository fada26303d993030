"""A recipe run in its framework's environment, and what it left: its losses and its speed.

In: an export folder. Out: the checkpoint in it, a Run.
Beware: the recipe's lines are a shell's, and a framework's own code runs; only its environment keeps it from ours. A speed is the median over windows of 10 steps, the first window left out; LitGPT, nanoGPT and llama2.c time their
steps themselves.
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
from smalltale.frameworks.framework import Framework, framework
from smalltale.frameworks.install import checkout_variable, need_environment, own_variables
from smalltale.frameworks.reading import near

WINDOW = 10
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "WANDB_MODE": "disabled",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Nothing of a run needs the network, and nobody is told of it (Axolotl would)."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Every step's loss, and tokens a second; None after a run too short to tell."""

    losses: list[float]
    tokens_per_second: float | None


def train(
    chosen: Framework, folder: Path, variables: Mapping[str, str], printed: IO[str] | None = None
) -> None:
    """Run the recipe's own lines in an export folder. Raises SmalltaleError where one fails.

    printed: where their output goes; the terminal by default.
    """
    own = {
        **own_variables(need_environment(chosen)),
        **checkout_variable(chosen),
        **OFFLINE,
        **variables,
    }
    script = "set -e\n" + "\n".join(chosen.train)
    status = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=own,
        stdout=printed,
        stderr=printed and subprocess.STDOUT,
        check=False,
    ).returncode
    if status:
        raise SmalltaleError(
            f"{chosen.title} ended with status {status} in {folder}; what it printed says why"
        )


def framework_of(folder: Path) -> Framework:
    """The framework that an export folder was written for. Raises FileProblem."""
    told = read_json(folder / "meta.json")
    if not isinstance(told, dict) or told.get("kind") != "export":
        raise FileProblem(
            f"{folder} is no export folder; make one: smalltale export TOKENS --for NAME --out FOLDER"
        )
    return framework(str(told.get("framework")))


def run_of(chosen: Framework, folder: Path, printed: str) -> Run:
    """The run that was made in an export folder. Raises FileProblem where it left no figures."""
    if chosen.step_line is not None:
        steps = chosen.step_line.findall(printed)
        plan = read_json(folder / "meta.json")["plan"]
        seconds = [float(milliseconds) / 1000 for _, milliseconds in steps]
        return Run(
            losses=[float(loss) for loss, _ in steps],
            tokens_per_second=speed(seconds, plan["batch_rows"] * plan["context"]),
        )
    found = near(folder / chosen.checkpoint, "run.json")
    if found is None:
        raise FileProblem(f"the run left no run.json near {chosen.checkpoint}")
    return Run(**read_json(found))


def speed(seconds: Sequence[float], step_tokens: int) -> float | None:
    """Tokens a second from each step's seconds."""
    windows = [sum(seconds[at : at + WINDOW]) for at in range(WINDOW, len(seconds) - WINDOW + 1, WINDOW)]
    return WINDOW * step_tokens / median(windows) if windows else None
