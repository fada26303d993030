"""metrics.jsonl: a line a step, written as it happens.

In: rows with a `step`. Out: a file that a killed run leaves whole up to its last step, and that a resumed one goes on in.
Beware: a step may have several lines (its loss, later its bits per byte); readers see them as one row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from smalltale.errors import FileProblem
from smalltale.files import explained, new_file

NAME = "metrics.jsonl"


class MetricsFile:
    """Appends rows to a run's metrics.jsonl, one write a row, so that a kill leaves whole lines."""

    def __init__(self, path: Path) -> None:
        """Open `path`, made where it is missing. A last line cut short by a crash is removed. Raises FileProblem."""
        self.path = path
        cut_torn_line(path)
        with explained(path):
            self.file = path.open("ab", buffering=0)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row, which has a `step`. Raises FileProblem where the disk does not take it whole."""
        line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
        with explained(self.path):
            before = self.file.tell()
            written = self.file.write(line)
            if written != len(line):
                self.file.truncate(before)
                raise FileProblem(
                    f"{self.path}: no space left on the disk; free some space or choose another place"
                )

    def truncate_after(self, step: int) -> None:
        """Drop the rows after `step`: what a resumed run does again. Raises FileProblem."""
        lines = self.path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if step_of(line) <= step]
        if len(kept) == len(lines):
            return
        self.file.close()
        with new_file(self.path) as temporary:
            temporary.write_bytes(b"".join(kept))
        with explained(self.path):
            self.file = self.path.open("ab", buffering=0)

    def sync(self) -> None:
        """Ask the disk to hold what was written, against a loss of power; a checkpoint is the time for it."""
        with explained(self.path):
            os.fsync(self.file.fileno())

    def close(self) -> None:
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def cut_torn_line(path: Path) -> None:
    """Remove what stands after the last line break."""
    if not path.exists():
        return
    with explained(path), path.open("r+b") as opened:
        raw = opened.read()
        whole = raw.rfind(b"\n") + 1
        if whole < len(raw):
            opened.truncate(whole)


def step_of(line: bytes) -> float:
    """The step of a line; a line that tells none belongs to no step that is kept."""
    try:
        row = json.loads(line)
    except ValueError:
        return float("inf")
    step = row.get("step") if isinstance(row, dict) else None
    return step if isinstance(step, (int, float)) else float("inf")


def rows_of(path: Path) -> tuple[list[dict[str, Any]], str]:
    """The rows of a metrics.jsonl that can be read, one a step in order, and what is wrong with it, or "".

    A torn last line is what a kill leaves and nothing wrong. Raises FileProblem where the file cannot be opened.
    """
    with explained(path):
        raw = path.read_bytes()
    lines = raw.split(b"\n")
    if raw and not raw.endswith(b"\n"):
        lines.pop()
    rows: dict[float, dict[str, Any]] = {}
    broken: list[int] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        step = step_of(line)
        if step == float("inf"):
            broken.append(number)
        else:
            rows.setdefault(step, {}).update(json.loads(line))
    ordered = [rows[step] for step in sorted(rows)]
    if not broken:
        return ordered, ""
    return ordered, f"{len(broken)} unreadable lines, the first is line {broken[0]}"


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """A run's metrics, one row a step. Raises FileProblem where there is none or a line is broken."""
    path = folder / NAME
    rows, wrong = rows_of(path)
    if wrong:
        raise FileProblem(f"{path} has {wrong}; remove the broken lines")
    if not rows:
        raise FileProblem(f"{path} is empty; the run has made no step yet")
    return rows
