"""What a run tells of itself while it goes: metrics.jsonl, trackers, the display.

In: the figures of each step. Out: a line a step, and a bar that moves.
Beware: only the leading rank keeps one; the others' journal is silent.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from smalltale.training.device import Device
from smalltale.training.metrics_file import NAME, MetricsFile, rows_of
from smalltale.training.throughput import Yardstick, step_figures, told
from smalltale.training.trackers import Tracker, open_trackers

log = logging.getLogger(__name__)


class Journal:
    """The figures of one run."""

    def __init__(
        self,
        out: Path,
        device: Device,
        stick: Yardstick,
        track: Sequence[str],
        config: Mapping[str, Any],
        *,
        silent: bool,
    ) -> None:
        self.device, self.stick, self.silent = device, stick, silent
        self.file: MetricsFile | None = None
        self.trackers: list[Tracker] = []
        self.path = out / NAME
        self.last: dict[str, Any] = {}
        self.measured: dict[str, float] = {}
        """What the last evaluation found, shown until the next one."""
        if not silent:
            self.file = MetricsFile(self.path)
            self.trackers = open_trackers(track, out, config)

    def step(self, row: dict[str, Any], *, tokens: int, seconds: float, progress: float) -> None:
        """Keep a step's figures. row: step, tokens, seconds of the whole run, loss; tokens, seconds: of this step."""
        self.last = {**row, **step_figures(self.stick, self.device, tokens=tokens, seconds=seconds)}
        self.keep(self.last)
        if not self.silent:
            words = told(row["step"], {**self.measured, **self.last})
            log.info("training", extra={"done": progress, "total": 1.0, "figures": words})

    def bits(self, step: int, bits_per_byte: float) -> None:
        """Keep what an evaluation after a step found."""
        self.last["bits_per_byte"] = self.measured["bits_per_byte"] = bits_per_byte
        self.keep({"step": step, "bits_per_byte": bits_per_byte})
        if not self.silent:
            log.info("step %d: %.4f bits per byte on held-out stories", step, bits_per_byte)

    def keep(self, row: dict[str, Any]) -> None:
        if self.file is not None:
            self.file.append(row)
        for each in self.trackers:
            each.log(row["step"], {key: value for key, value in row.items() if key != "step"})

    def back_to(self, step: int) -> None:
        """Drop what came after a step; it is done again."""
        if self.file is not None:
            self.file.truncate_after(step)
            rows, _ = rows_of(self.path)
            self.last = rows[-1] if rows else {}

    def sync(self) -> None:
        if self.file is not None:
            self.file.sync()

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
        for each in self.trackers:
            each.close()
