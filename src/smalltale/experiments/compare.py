"""Runs side by side, in words: a table of their figures, and the settings in which they differ.

In: runs as `training/runs.py` reads them. Out: short texts for a terminal and for a page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from smalltale.experiments.runs import Run

NONE = "–"
"""Stands for what a run does not tell."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the table of runs."""

    heading: str
    importance: int
    """A narrow display leaves out the least important ones, the largest numbers; 0 always stays."""
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


def cells(run: Run) -> dict[str, str]:
    """A run's row, by the headings of COLUMNS."""
    share = run.progress if run.state in {"running", "stopped"} else None
    return {
        "run": run.name,
        "state": run.state if share is None else f"{run.state} {100 * share:.0f} %",
        "recipe": run.recipe or NONE,
        "class": run.weight_class or NONE,
        "counted": amount(run.counted_parameters),
        "device": short_device(run.device),
        "steps": NONE if (steps := run.reached("step")) is None else f"{steps:,.0f}",
        "tokens": amount(run.reached("tokens")),
        "time": span(run.reached("seconds")),
        "loss": decimals(run.loss, 3),
        "last bits/byte": decimals(run.last_bits, 4),
        "best bits/byte": decimals(run.best_bits, 4),
        "commit": (run.commit or NONE)[:8],
        "age": span(run.age_seconds),
    }


def short_device(name: str | None) -> str:
    """A device's name without its maker's marks."""
    words = re.sub(r"\((R|TM|C)\)|\bCPU\b|\bProcessor\b|\bNVIDIA\b|@.*", " ", name or "", flags=re.IGNORECASE)
    return " ".join(words.split()) or name or NONE


def decimals(value: float | None, places: int) -> str:
    return NONE if value is None else f"{value:.{places}f}"


def amount(value: float | None) -> str:
    """A number with three figures: 5.77M."""
    if value is None:
        return NONE
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.{max(0, 3 - len(str(int(value / size + 0.0005))))}f}{letter}"
    return f"{value:,.0f}"


def span(seconds: float | None) -> str:
    """A length of time in one unit: 5.0 min."""
    if seconds is None:
        return NONE
    for least, size, unit in ((172_800, 86_400, "days"), (5_400, 3_600, "h"), (90, 60, "min")):
        if seconds >= least:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The settings that are not the same in all runs, a value a run; None where a run does not tell it."""
    telling = [run for run in runs if run.settings]
    keys = dict.fromkeys(key for run in telling for key in run.settings)
    return {
        key: [run.settings.get(key) for run in runs]
        for key in keys
        if any(run.settings.get(key) != telling[0].settings.get(key) for run in telling)
    }


def setting(value: Any) -> str:
    """A setting's value as a recipe has it."""
    return NONE if value is None else json.dumps(value, ensure_ascii=False)
