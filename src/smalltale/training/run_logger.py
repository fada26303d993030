"""Logs the metrics of a run to metrics.jsonl, to trackers and to the progress display.

Input: the metrics of each step. Output: one line per step, and a progress bar.
Note: only rank 0 logs; the loggers of other ranks are silent.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from smalltale.training.device import Device
from smalltale.training.metrics_file import METRICS_NAME, MetricsFile, read_rows
from smalltale.training.throughput import MfuBaseline, compute_step_metrics, format_metrics
from smalltale.training.trackers import Tracker, open_trackers

log = logging.getLogger(__name__)


class RunLogger:
    """Logger of one run."""

    def __init__(
        self,
        out: Path,
        device: Device,
        baseline: MfuBaseline,
        track: Sequence[str],
        config: Mapping[str, Any],
        *,
        silent: bool,
    ) -> None:
        self.device, self.baseline, self.silent = device, baseline, silent
        self.file: MetricsFile | None = None
        self.trackers: list[Tracker] = []
        self.path = out / METRICS_NAME
        self.last_row: dict[str, Any] = {}
        self.last_evaluation: dict[str, float] = {}
        """Metrics of the last evaluation, displayed until the next."""
        if not silent:
            self.file = MetricsFile(self.path)
            self.trackers = open_trackers(track, out, config)

    def log_step(self, row: dict[str, Any], *, tokens: int, seconds: float, progress: float) -> None:
        """Log one step. row: step, tokens, seconds of the run, loss; tokens, seconds: of this step."""
        self.last_row = row | compute_step_metrics(self.baseline, self.device, tokens=tokens, seconds=seconds)
        self.write(self.last_row)
        if not self.silent:
            figures = format_metrics(row["step"], {**self.last_evaluation, **self.last_row})
            log.info("training", extra={"done": progress, "total": 1.0, "figures": figures})

    def log_bits_per_byte(self, step: int, bits_per_byte: float) -> None:
        """Log the evaluation after a step."""
        self.last_row["bits_per_byte"] = self.last_evaluation["bits_per_byte"] = bits_per_byte
        self.write({"step": step, "bits_per_byte": bits_per_byte})
        if not self.silent:
            log.info("step %d: %.4f bits per byte on held-out stories", step, bits_per_byte)

    def write(self, row: dict[str, Any]) -> None:
        if self.file is not None:
            self.file.append(row)
        for tracker in self.trackers:
            tracker.log(row["step"], {key: value for key, value in row.items() if key != "step"})

    def rewind(self, step: int) -> None:
        """Drop the rows after a step, which will be trained again."""
        if self.file is not None:
            self.file.truncate_after(step)
            rows, _ = read_rows(self.path)
            self.last_row = rows[-1] if rows else {}

    def sync(self) -> None:
        if self.file is not None:
            self.file.sync()

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
        for tracker in self.trackers:
            tracker.close()
