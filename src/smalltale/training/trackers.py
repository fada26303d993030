"""Experiment trackers in addition to metrics.jsonl: TensorBoard, trackio, wandb.

Input: the names in `training.track`, the metrics of a run. Output: what each tracker records.
Note: a tracker's package is imported only when it is selected (extra `track`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from smalltale.errors import MissingExtra, RecipeError

PROJECT = "smalltale"


class Tracker(Protocol):
    """Receives the metrics of each step."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoardTracker:
    """Event files in the run's folder: `tensorboard --logdir FOLDER`."""

    def __init__(self, out: Path, config: Mapping[str, Any]) -> None:
        import_tracker("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(out / "tensorboard"))
        self.writer.add_text("config", f"```\n{json.dumps(config, indent=2, default=str)}\n```")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, metric in metrics.items():
            self.writer.add_scalar(name, metric, step)

    def close(self) -> None:
        self.writer.close()


class HostedTracker:
    """wandb, and trackio, which has the same API; each is configured as its documentation says."""

    def __init__(self, package: str, out: Path, config: Mapping[str, Any]) -> None:
        self.package = import_tracker(package)
        options = {"dir": str(out)} if package == "wandb" else {}
        self.package.init(project=PROJECT, name=out.name, config=dict(config), **options)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.package.log(dict(metrics), step=step)

    def close(self) -> None:
        self.package.finish()


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoardTracker,
    "trackio": lambda out, config: HostedTracker("trackio", out, config),
    "wandb": lambda out, config: HostedTracker("wandb", out, config),
}


def open_trackers(names: Sequence[str], out: Path, config: Mapping[str, Any]) -> list[Tracker]:
    """The trackers with these names. Raises RecipeError for an unknown name, MissingExtra for a missing package."""
    check_trackers(names)
    return [TRACKERS[name](out, config) for name in names]


def check_trackers(names: Sequence[str]) -> None:
    """Raise RecipeError for an unknown name, MissingExtra for a package that is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise RecipeError(f"training.track: no tracker {name!r}; choose from {', '.join(TRACKERS)}")
        import_tracker(name)


def import_tracker(package: str) -> Any:
    """The package. Raises MissingExtra if it is not installed."""
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise MissingExtra(package, "track", "training.track") from error
