"""Formats runs for comparison: a table of their figures, and the settings in which they differ.

Input: runs as `runs.py` reads them. Output: short texts for a terminal and for the report page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from smalltale.experiments.runs import TrainingRun

MISSING = "–"
"""Shown for a fact that a run's files do not contain."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the table of runs."""

    heading: str
    importance: int
    """A narrow display drops the columns with the largest numbers first; 0 always stays."""
    number: bool = False


COLUMNS = (
    Column(heading="run", importance=0),
    Column(heading="state", importance=1),
    Column(heading="recipe", importance=6),
    Column(heading="class", importance=9),
    Column(heading="counted", importance=3, number=True),
    Column(heading="device", importance=8),
    Column(heading="steps", importance=7, number=True),
    Column(heading="tokens", importance=4, number=True),
    Column(heading="time", importance=5, number=True),
    Column(heading="loss", importance=10, number=True),
    Column(heading="last bits/byte", importance=2, number=True),
    Column(heading="best bits/byte", importance=0, number=True),
    Column(heading="commit", importance=11),
    Column(heading="age", importance=9, number=True),
)


def format_cells(run: TrainingRun) -> dict[str, str]:
    """A run's row of the table, by the headings of COLUMNS."""
    progress = run.progress if run.state in {"running", "stopped"} else None
    return {
        "run": run.name,
        "state": run.state if progress is None else f"{run.state} {100 * progress:.0f} %",
        "recipe": run.recipe or MISSING,
        "class": run.weight_class or MISSING,
        "counted": format_count(run.counted_parameters),
        "device": shorten_device_name(run.device),
        "steps": format_decimals(run.latest("step"), 0),
        "tokens": format_count(run.latest("tokens")),
        "time": format_duration(run.latest("seconds")),
        "loss": format_decimals(run.loss, 3),
        "last bits/byte": format_decimals(run.last_bits_per_byte, 4),
        "best bits/byte": format_decimals(run.best_bits_per_byte, 4),
        "commit": (run.commit or MISSING)[:8],
        "age": format_duration(run.age_seconds),
    }


def shorten_device_name(name: str | None) -> str:
    """A device's name without trademark signs, vendor and clock rate."""
    words = re.sub(r"\((R|TM|C)\)|\bCPU\b|\bProcessor\b|\bNVIDIA\b|@.*", " ", name or "", flags=re.IGNORECASE)
    return " ".join(words.split()) or name or MISSING


def format_decimals(number: float | None, decimals: int) -> str:
    return MISSING if number is None else f"{number:,.{decimals}f}"


def format_count(number: float | None) -> str:
    """A number with three significant figures: 5.77M."""
    if number is None:
        return MISSING
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= 0.9995 * size:
            return f"{number / size:.{max(0, 3 - len(str(int(number / size + 0.0005))))}f}{letter}"
    return f"{number:,.0f}"


def format_duration(seconds: float | None) -> str:
    """A duration in one unit: 5.0 min."""
    if seconds is None:
        return MISSING
    for minimum, size, unit in ((172_800, 86_400, "days"), (5_400, 3_600, "h"), (90, 60, "min")):
        if seconds >= minimum:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def differing_settings(runs: Sequence[TrainingRun]) -> dict[str, list[Any]]:
    """The settings that are not the same in all runs, one value per run; None if a run's record lacks it."""
    recorded = [run for run in runs if run.settings]
    keys = dict.fromkeys(key for run in recorded for key in run.settings)
    return {
        key: [run.settings.get(key) for run in runs]
        for key in keys
        if any(run.settings.get(key) != recorded[0].settings.get(key) for run in recorded)
    }


def format_setting(setting: Any) -> str:
    """A setting as JSON, close to how a recipe writes it."""
    return MISSING if setting is None else json.dumps(setting, ensure_ascii=False)
