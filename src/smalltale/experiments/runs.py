"""Reads training runs from their folders: state, progress, settings and metrics.

Input: folders that `smalltale train` wrote, complete, unfinished or damaged. Output: a `TrainingRun` for each; no file is
changed.
Note: an unfinished run counts as running or stopped by the time of its last write only, so a run on a sleeping machine
appears stopped.
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
from smalltale.files import read_json, translate_os_errors
from smalltale.training.metrics_file import METRICS_NAME, read_rows

SEARCH_DEPTH = 4
"""Depth to which folders are searched."""
SILENT_SECONDS = 120.0
"""An unfinished run counts as stopped when its last write is older than this plus the time of 20 steps."""


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """One run. Facts that its files do not contain are None."""

    folder: Path
    name: str
    state: str
    """finished, running, stopped, or broken: its record is unreadable."""
    problems: tuple[str, ...] = ()
    """Descriptions of missing or damaged files."""
    recipe: str | None = None
    weight_class: str | None = None
    counted_parameters: int | None = None
    device: str | None = None
    commit: str | None = None
    version: str | None = None
    flops_per_token: float | None = None
    progress: float | None = None
    """Used share of its budget, from 0 to 1."""
    age_seconds: float | None = None
    """Time since its last write."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Every setting by its dotted name: the recipe, completed with defaults."""
    rows: list[dict[str, float]] = field(default_factory=list)
    """Metrics, one row per step, finite numbers only."""
    counts: dict[str, float] = field(default_factory=dict)
    """step, tokens, seconds in its record: at the last checkpoint."""

    def latest(self, key: str) -> float | None:
        """The run's last step, tokens or seconds, from its metrics, else from its record."""
        values = (row[key] for row in reversed(self.rows) if key in row)
        return next(values, self.counts.get(key))

    @property
    def bits_per_byte(self) -> list[float]:
        """All evaluations on held-out stories, in order."""
        return [row["bits_per_byte"] for row in self.rows if "bits_per_byte" in row]

    @property
    def last_bits_per_byte(self) -> float | None:
        return self.bits_per_byte[-1] if self.bits_per_byte else None

    @property
    def best_bits_per_byte(self) -> float | None:
        return min(self.bits_per_byte, default=None)

    @property
    def loss(self) -> float | None:
        """The median loss of the last 20 steps, in nats per token."""
        losses = [row["loss"] for row in self.rows[-20:] if "loss" in row]
        return median(losses) if losses else None

    @property
    def tokens_per_second(self) -> float | None:
        tokens, seconds = self.latest("tokens"), self.latest("seconds")
        return tokens / seconds if tokens and seconds else None

    def as_dict(self) -> dict[str, Any]:
        """The run as a JSON object, without its curves."""
        return {
            "name": self.name,
            "folder": str(self.folder),
            "state": self.state,
            "progress": self.progress,
            "recipe": self.recipe,
            "weight_class": self.weight_class,
            "counted_parameters": self.counted_parameters,
            "device": self.device,
            "steps": self.latest("step"),
            "tokens": self.latest("tokens"),
            "seconds": self.latest("seconds"),
            "tokens_per_second": self.tokens_per_second,
            "flops_per_token": self.flops_per_token,
            "loss": self.loss,
            "last_bits_per_byte": self.last_bits_per_byte,
            "best_bits_per_byte": self.best_bits_per_byte,
            "commit": self.commit,
            "version": self.version,
            "age_seconds": self.age_seconds,
            "trouble": list(self.problems),
        }


def find_runs(folders: Sequence[Path]) -> list[TrainingRun]:
    """The runs in and under folders, newest first. Raises FileProblem if a folder is missing or there is no run."""
    run_folders: dict[Path, Path] = {}
    for folder in folders:
        with translate_os_errors(folder):
            if not folder.exists():
                raise FileProblem(f"{folder} does not exist; name a folder that contains runs")
            if not folder.is_dir():
                raise FileProblem(f"{folder} is a file; name a folder that `smalltale train` wrote")
            run_folders.update((path.resolve(), path) for path in walk_run_folders(folder))
    if not run_folders:
        raise FileProblem(
            f"no run in {', '.join(map(str, folders))} down to a depth of {SEARCH_DEPTH} folders; a run is a folder that "
            "`smalltale train --out` wrote"
        )
    root = Path(os.path.commonpath(path.parent for path in run_folders))
    runs = [
        replace(read_run(path), name=str(resolved.relative_to(root)))
        for resolved, path in run_folders.items()
    ]
    return sorted(runs, key=lambda run: math.inf if run.age_seconds is None else run.age_seconds)


def walk_run_folders(root: Path) -> Iterator[Path]:
    """The run folders in and under `root`. Folders inside a run, such as its best checkpoint, are not runs."""
    for path, subfolders, files in os.walk(root):
        folder = Path(path)
        if is_run_folder(folder, files):
            subfolders.clear()
            yield folder
        elif len(folder.relative_to(root).parts) >= SEARCH_DEPTH:
            subfolders.clear()
        else:
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))


def is_run_folder(folder: Path, files: Sequence[str]) -> bool:
    """Whether a folder is a run, including one whose record is missing or damaged."""
    if "meta.json" not in files:
        return METRICS_NAME in files
    try:
        meta = read_json(folder / "meta.json")
    except FileProblem:
        return METRICS_NAME in files or "config.json" in files
    return isinstance(meta, dict) and meta.get("kind") == "checkpoint"


def read_run(folder: Path) -> TrainingRun:
    """A run folder, as far as its files are readable; `problems` describes the others."""
    problems: list[str] = []
    rows = read_finite_rows(folder, problems)
    meta = read_object(folder / "meta.json", problems)
    config = read_object(folder / "config.json", problems)
    counts = {
        "step": get_number(meta, "counts", "steps"),
        "tokens": get_number(meta, "counts", "tokens"),
        "seconds": get_number(meta, "seconds"),
    }
    parameters = get_number(config, "counted_parameters")
    run = TrainingRun(
        folder=folder,
        name=folder.name,
        state="broken",
        recipe=get_text(meta, "recipe", "name"),
        weight_class=get_text(config, "weight_class") or get_text(meta, "recipe", "weight_class"),
        counted_parameters=None if parameters is None else int(parameters),
        device=get_text(meta, "hardware", "name") or get_text(meta, "hardware", "device"),
        commit=get_text(meta, "git_commit"),
        version=get_text(meta, "smalltale_version"),
        flops_per_token=get_number(meta, "flops_per_token"),
        settings=collect_settings(meta, config),
        rows=rows,
        counts={key: count for key, count in counts.items() if count is not None},
    )
    written_at = last_write_time(folder, meta)
    return replace(
        run,
        state=find_state(run, meta, written_at),
        problems=tuple(problems),
        progress=budget_share(run, meta),
        age_seconds=None if written_at is None else max(0.0, time.time() - written_at),
    )


def read_finite_rows(folder: Path, problems: list[str]) -> list[dict[str, float]]:
    """A run's metrics, finite numbers only; appends descriptions of unreadable ones to `problems`."""
    try:
        rows, problem = read_rows(folder / METRICS_NAME)
    except FileProblem as error:
        problems.append(f"{METRICS_NAME}: {error}")
        return []
    if problem:
        problems.append(f"{METRICS_NAME} has {problem}")
    not_finite = [row["step"] for row in rows if "loss" in row and get_number(row, "loss") is None]
    if not_finite:
        problems.append(f"the loss was not a number at step {not_finite[0]:,}")
    if not rows:
        problems.append("no step yet")
    return [{key: row[key] for key in row if get_number(row, key) is not None} for row in rows]


def read_object(path: Path, problems: list[str]) -> Mapping[str, Any]:
    """The object in a JSON file; {} if it is unreadable, which is described in `problems`."""
    if not path.exists():
        problems.append(f"no {path.name} yet")
        return {}
    try:
        content = read_json(path)
    except FileProblem:
        problems.append(f"{path.name} is cut short or not JSON")
        return {}
    if isinstance(content, dict):
        return content
    problems.append(f"{path.name} does not contain a JSON object")
    return {}


def get_nested(table: Any, *keys: str) -> Any:
    """table[key][key]…, None if a level is missing."""
    for key in keys:
        table = table.get(key) if isinstance(table, dict) else None
    return table


def get_text(table: Any, *keys: str) -> str | None:
    """table[key][key]… if it is a non-empty string, else None."""
    text = get_nested(table, *keys)
    return text if isinstance(text, str) and text else None


def get_number(table: Any, *keys: str) -> float | None:
    """table[key][key]… if it is a finite number, else None."""
    number = get_nested(table, *keys)
    is_number = isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number)
    return number if is_number else None


def collect_settings(meta: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting of a run by its dotted name."""
    recipe = meta.get("recipe")
    sections = dict(recipe) if isinstance(recipe, dict) else {}
    for name, section in (("model", config.get("model")), ("training", meta.get("training"))):
        if isinstance(section, dict):
            sections[name] = section
    if val_tokens := get_text(meta, "inputs", "val_tokens"):
        sections["held_out"] = val_tokens
    return flatten(sections)


def flatten(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, with keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        name = f"{prefix}{key}"
        flat.update(flatten(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return flat


def last_write_time(folder: Path, meta: Mapping[str, Any]) -> float | None:
    """Unix time of a run's last write: of a finished run from its record, else from its files."""
    if meta.get("finished") is True:
        try:
            made_at = datetime.fromisoformat(get_text(meta, "made_at") or "")
            return made_at.replace(tzinfo=made_at.tzinfo or UTC).timestamp()
        except ValueError:
            pass
    files = [path for path in (folder / METRICS_NAME, folder / "meta.json") if path.exists()]
    return max((path.stat().st_mtime for path in files), default=None)


def find_state(run: TrainingRun, meta: Mapping[str, Any], written_at: float | None) -> str:
    """finished, running, stopped or broken."""
    if not meta and (run.folder / "meta.json").exists():
        return "broken"
    if meta.get("finished") is True:
        return "finished"
    steps, seconds = run.latest("step"), run.latest("seconds")
    timeout = SILENT_SECONDS + (20 * seconds / steps if steps and seconds else 0.0)
    return "running" if written_at is not None and time.time() - written_at < timeout else "stopped"


def budget_share(run: TrainingRun, meta: Mapping[str, Any]) -> float | None:
    """Share of the time or step budget that a run has used."""
    schedule = get_nested(meta, "training", "schedule")
    minutes, steps = get_number(schedule, "minutes"), get_number(schedule, "steps")
    if minutes:
        return min(1.0, (run.latest("seconds") or 0.0) / (60 * minutes))
    if steps:
        return min(1.0, (run.latest("step") or 0.0) / steps)
    return None
