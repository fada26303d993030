"""metrics.jsonl: append-only metrics of a run, one line per step.

Input: rows with a `step`. Output: a file that stays readable up to the last step after a kill, and that a resumed run
continues.
Note: a step may have several lines (its loss, later its bits per byte); readers merge them into one row.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from smalltale.errors import FileProblem
from smalltale.files import atomic_file, translate_os_errors
from smalltale.journal import Journal

METRICS_NAME = "metrics.jsonl"


class MetricsFile(Journal):
    """A run's metrics.jsonl, open for appending rows that have a `step`. The run locks its whole folder."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, lock=False)

    def truncate_after(self, step: int) -> None:
        """Drop the rows after `step`, which a resumed run computes again. Raises FileProblem."""
        lines = self.path.read_bytes().splitlines(keepends=True)
        remaining = [line for line in lines if parse_step(line) <= step]
        if len(remaining) == len(lines):
            return
        self.close()
        with atomic_file(self.path) as temporary:
            temporary.write_bytes(b"".join(remaining))
        super().__init__(self.path, lock=False)

    def sync(self) -> None:
        """Flush the file to disk against a power loss; called with each checkpoint."""
        with translate_os_errors(self.path):
            os.fsync(self.file.fileno())


def parse_step(line: bytes) -> float:
    """The step of a line; infinity if the line has none."""
    try:
        row = json.loads(line)
    except ValueError:
        return float("inf")
    step = row.get("step") if isinstance(row, dict) else None
    return step if isinstance(step, (int, float)) else float("inf")


def read_rows(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The readable rows of a metrics.jsonl, one per step in order, and a description of its unreadable lines, or "".

    A torn last line is normal after a kill and not reported. Raises FileProblem when the file cannot be opened.
    """
    with translate_os_errors(path):
        content = path.read_bytes()
    lines = content.split(b"\n")
    if content and not content.endswith(b"\n"):
        lines.pop()
    row_by_step: dict[float, dict[str, Any]] = {}
    broken_lines: list[int] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        step = parse_step(line)
        if step == float("inf"):
            broken_lines.append(number)
        else:
            row_by_step.setdefault(step, {}).update(json.loads(line))
    rows = [row_by_step[step] for step in sorted(row_by_step)]
    if not broken_lines:
        return rows, ""
    return rows, f"{len(broken_lines)} unreadable lines, the first is line {broken_lines[0]}"


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """A run's metrics, one row per step. Raises FileProblem if the file is missing, empty or has a broken line."""
    path = folder / METRICS_NAME
    rows, problem = read_rows(path)
    if problem:
        raise FileProblem(f"{path} has {problem}; remove the broken lines")
    if not rows:
        raise FileProblem(f"{path} is empty; the run has not finished a step yet")
    return rows
