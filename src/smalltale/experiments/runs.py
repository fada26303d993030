"""Runs, read back from their folders: what each was, and how far it came.

In: folders that `smalltale train` wrote, whole, half-written or broken. Out: a `Run` each; nothing is changed.
Beware: a run that goes on is told from one that was stopped by its last sign of life alone, so a machine that
sleeps looks stopped.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from smalltale.errors import FileProblem
from smalltale.files import explained, read_json
from smalltale.training.metrics_file import NAME as METRICS
from smalltale.training.metrics_file import rows_of

DEPTH = 4
"""Folders are searched so deep."""
SILENT_SECONDS = 120.0
"""A run is taken for stopped when nothing was written for so long and 20 steps more."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run. What its files do not tell is None."""

    folder: Path
    name: str
    state: str
    """finished, running, stopped, or broken: its record cannot be read."""
    trouble: tuple[str, ...] = ()
    """What is wrong with its files, in words."""
    recipe: str | None = None
    weight_class: str | None = None
    counted_parameters: int | None = None
    device: str | None = None
    commit: str | None = None
    version: str | None = None
    flops_per_token: float | None = None
    progress: float | None = None
    """Share of its budget that is used, from 0 to 1."""
    age_seconds: float | None = None
    """Since its last sign of life."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Every setting by its dotted name: the recipe with the defaults that it did not name."""
    rows: list[dict[str, float]] = field(default_factory=list)
    """One a step, finite numbers only."""
    counts: dict[str, float] = field(default_factory=dict)
    """step, tokens, seconds as the record has them: at the last checkpoint."""

    def reached(self, key: str) -> float | None:
        """The run's last step, tokens or seconds: by its metrics, else by its record."""
        told = (row[key] for row in reversed(self.rows) if key in row)
        return next(told, self.counts.get(key))

    @property
    def bits(self) -> list[float]:
        """Bits per byte on held-out stories, in order."""
        return [row["bits_per_byte"] for row in self.rows if "bits_per_byte" in row]

    @property
    def last_bits(self) -> float | None:
        return self.bits[-1] if self.bits else None

    @property
    def best_bits(self) -> float | None:
        return min(self.bits, default=None)

    @property
    def loss(self) -> float | None:
        """The median loss of the last 20 steps, in nats per token."""
        losses = [row["loss"] for row in self.rows[-20:] if "loss" in row]
        return median(losses) if losses else None

    @property
    def tokens_per_second(self) -> float | None:
        tokens, seconds = self.reached("tokens"), self.reached("seconds")
        return tokens / seconds if tokens and seconds else None

    def as_dict(self) -> dict[str, Any]:
        """What a program may want to know; the curves stay in metrics.jsonl."""
        return {
            "name": self.name,
            "folder": str(self.folder),
            "state": self.state,
            "progress": self.progress,
            "recipe": self.recipe,
            "weight_class": self.weight_class,
            "counted_parameters": self.counted_parameters,
            "device": self.device,
            "steps": self.reached("step"),
            "tokens": self.reached("tokens"),
            "seconds": self.reached("seconds"),
            "tokens_per_second": self.tokens_per_second,
            "flops_per_token": self.flops_per_token,
            "loss": self.loss,
            "last_bits_per_byte": self.last_bits,
            "best_bits_per_byte": self.best_bits,
            "commit": self.commit,
            "version": self.version,
            "age_seconds": self.age_seconds,
            "trouble": list(self.trouble),
        }


def find_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in and under folders, the newest first. Raises FileProblem where a folder is missing or none has a run."""
    places: dict[Path, Path] = {}
    for folder in folders:
        with explained(folder):
            if not folder.exists():
                raise FileProblem(f"{folder} does not exist; name a folder with runs in it")
            if not folder.is_dir():
                raise FileProblem(
                    f"{folder} is a file; name a folder that `smalltale train` wrote, or one above"
                )
            places.update((place.resolve(), place) for place in run_folders(folder))
    if not places:
        raise FileProblem(
            f"no run in {', '.join(map(str, folders))}, {DEPTH} folders deep; a run is a folder that "
            "`smalltale train --out` wrote"
        )
    above = Path(os.path.commonpath(place.parent for place in places))
    runs = [replace(read_run(place), name=str(real.relative_to(above))) for real, place in places.items()]
    return sorted(runs, key=lambda run: math.inf if run.age_seconds is None else run.age_seconds)


def run_folders(folder: Path) -> Iterator[Path]:
    """The run folders in and under `folder`. A run's own folders, such as its best checkpoint, are no runs."""
    for place, inside, files in os.walk(folder):
        here = Path(place)
        if is_run(here, files):
            inside.clear()
            yield here
        elif len(here.relative_to(folder).parts) >= DEPTH:
            inside.clear()
        else:
            inside[:] = sorted(name for name in inside if not name.startswith("."))


def is_run(place: Path, files: Sequence[str]) -> bool:
    """Whether a folder is a run, also one that has no record yet or a broken one."""
    if "meta.json" not in files:
        return METRICS in files
    try:
        meta = read_json(place / "meta.json")
    except FileProblem:
        return METRICS in files or "config.json" in files
    return isinstance(meta, dict) and meta.get("kind") == "checkpoint"


def read_run(folder: Path) -> Run:
    """A run folder, as far as its files can be read; what is wrong with them is told in `trouble`."""
    trouble: list[str] = []
    rows = metrics(folder, trouble)
    meta = table(folder / "meta.json", trouble)
    config = table(folder / "config.json", trouble)
    counts = {
        ours: value
        for ours, value in (
            ("step", number(at(meta, "counts", "steps"))),
            ("tokens", number(at(meta, "counts", "tokens"))),
            ("seconds", number(at(meta, "seconds"))),
        )
        if value is not None
    }
    run = Run(
        folder=folder,
        name=folder.name,
        state="broken",
        recipe=text(at(meta, "recipe", "name")),
        weight_class=text(at(config, "weight_class")) or text(at(meta, "recipe", "weight_class")),
        counted_parameters=whole(at(config, "counted_parameters")),
        device=text(at(meta, "hardware", "name")) or text(at(meta, "hardware", "device")),
        commit=text(at(meta, "git_commit")),
        version=text(at(meta, "smalltale_version")),
        flops_per_token=number(at(meta, "flops_per_token")),
        settings=settings(meta, config),
        rows=rows,
        counts=counts,
    )
    sign = last_sign(folder, meta)
    return replace(
        run,
        state=state_of(run, meta, sign),
        trouble=tuple(trouble),
        progress=progress(run, meta),
        age_seconds=None if sign is None else max(0.0, time.time() - sign),
    )


def metrics(folder: Path, trouble: list[str]) -> list[dict[str, float]]:
    """A run's metrics, finite numbers only; what is wrong with them goes to `trouble`."""
    try:
        rows, wrong = rows_of(folder / METRICS)
    except FileProblem as problem:
        trouble.append(f"{METRICS}: {problem}")
        return []
    if wrong:
        trouble.append(f"{METRICS} has {wrong}")
    finite = [{key: value for key in row if (value := number(row[key])) is not None} for row in rows]
    lost = [
        row["step"] for row, kept in zip(rows, finite, strict=True) if "loss" in row and "loss" not in kept
    ]
    if lost:
        trouble.append(f"the loss was not a number at step {lost[0]:,}")
    if not rows:
        trouble.append("no step yet")
    return finite


def table(path: Path, trouble: list[str]) -> Mapping[str, Any]:
    """The object in a JSON file; {} where there is none to read, which goes to `trouble`."""
    if not path.exists():
        trouble.append(f"no {path.name} yet")
        return {}
    try:
        value = read_json(path)
    except FileProblem:
        trouble.append(f"{path.name} is cut short or no JSON")
        return {}
    if isinstance(value, dict):
        return value
    trouble.append(f"{path.name} holds no table")
    return {}


def at(value: Any, *keys: str) -> Any:
    """value[key][key]…, None where it does not go so deep."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def number(value: Any) -> float | None:
    """A finite number, None for all else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value


def whole(value: Any) -> int | None:
    return None if number(value) is None else int(value)


def settings(meta: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting of a run by its dotted name."""
    recipe = at(meta, "recipe")
    tables = dict(recipe) if isinstance(recipe, dict) else {}
    for name, complete in (("model", at(config, "model")), ("training", at(meta, "training"))):
        if isinstance(complete, dict):
            tables[name] = complete
    if told := text(at(meta, "inputs", "val_tokens")):
        tables["held_out"] = told
    return flat(tables)


def flat(tables: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Nested tables as one, its keys joined by dots."""
    out: dict[str, Any] = {}
    for key, value in tables.items():
        out.update(flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value})
    return out


def last_sign(folder: Path, meta: Mapping[str, Any]) -> float | None:
    """When a run last wrote something, in seconds of the Unix clock; a finished one tells it itself."""
    if at(meta, "finished") is True:
        try:
            made = datetime.fromisoformat(text(at(meta, "made_at")) or "")
            return made.replace(tzinfo=made.tzinfo or UTC).timestamp()
        except ValueError:
            pass
    files = [path for path in (folder / METRICS, folder / "meta.json") if path.exists()]
    return max((path.stat().st_mtime for path in files), default=None)


def state_of(run: Run, meta: Mapping[str, Any], sign: float | None) -> str:
    """finished, running, stopped or broken."""
    if not meta and (run.folder / "meta.json").exists():
        return "broken"
    if at(meta, "finished") is True:
        return "finished"
    steps, seconds = run.reached("step"), run.reached("seconds")
    patience = SILENT_SECONDS + (20 * seconds / steps if steps and seconds else 0.0)
    return "running" if sign is not None and time.time() - sign < patience else "stopped"


def progress(run: Run, meta: Mapping[str, Any]) -> float | None:
    """Share of the budget that a run has used."""
    budget = at(meta, "training", "schedule")
    minutes, steps = number(at(budget, "minutes")), number(at(budget, "steps"))
    if minutes:
        return min(1.0, (run.reached("seconds") or 0.0) / (60 * minutes))
    if steps:
        return min(1.0, (run.reached("step") or 0.0) / steps)
    return None
