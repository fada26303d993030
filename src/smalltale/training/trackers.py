"""Outside experiment trackers, through one small interface: TensorBoard, trackio, wandb.

In: the names in `training.track`, a run's figures. Out: what each tracker keeps; metrics.jsonl is written in any case.
Beware: a tracker's package is imported only where it is asked for (extra `track`).
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
    """Where a run's figures go beside metrics.jsonl."""

    def log(self, step: int, figures: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in the run's folder: `tensorboard --logdir FOLDER`."""

    def __init__(self, out: Path, config: Mapping[str, Any]) -> None:
        imported("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(out / "tensorboard"))
        self.writer.add_text("config", f"```\n{json.dumps(config, indent=2, default=str)}\n```")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class Hosted:
    """wandb, and trackio, which has the same calls; where they send or keep it is set as each of them documents."""

    def __init__(self, package: str, out: Path, config: Mapping[str, Any]) -> None:
        self.package = imported(package)
        more = {"dir": str(out)} if package == "wandb" else {}
        self.package.init(project=PROJECT, name=out.name, config=dict(config), **more)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self.package.log(dict(figures), step=step)

    def close(self) -> None:
        self.package.finish()


KNOWN: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "trackio": lambda out, config: Hosted("trackio", out, config),
    "wandb": lambda out, config: Hosted("wandb", out, config),
}


def open_trackers(names: Sequence[str], out: Path, config: Mapping[str, Any]) -> list[Tracker]:
    """The trackers of those names. Raises RecipeError for an unknown one, MissingExtra for one not installed."""
    refuse_unknown(names)
    return [KNOWN[name](out, config) for name in names]


def refuse_unknown(names: Sequence[str]) -> None:
    """Raise RecipeError for a name that no tracker has, MissingExtra for one that is not installed."""
    for name in names:
        if name not in KNOWN:
            raise RecipeError(f"training.track: there is no tracker {name!r}; known: {', '.join(KNOWN)}")
        imported(name)


def imported(package: str) -> Any:
    """The package. Raises MissingExtra where it is not installed."""
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise MissingExtra(package, "track", "training.track") from error
