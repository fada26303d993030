"""Log set-up and progress display: a live one on a terminal, plain lines in a pipe.

In: logging records of the stages. A record with `extra={"done": n, "total": m, "unit": "stories"}` moves a bar
(m is None where it is not known; `figures` replaces the count shown); any other is a line. Out: what a person sees, on standard error.
"""

from __future__ import annotations

import logging
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_SECONDS = 5.0
"""At most one progress line a stage in so many seconds where the output is not a terminal."""


class ProgressHandler(logging.Handler):
    """Shows the records of the `smalltale` loggers."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self.console = console
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self.task: TaskID | None = None
        self.stage = ""
        self.started = self.shown = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        done = getattr(record, "done", None)
        if done is None:
            self.console.print(record.getMessage(), markup=False, highlight=False, soft_wrap=True)
            return
        total, unit = getattr(record, "total", None), getattr(record, "unit", "")
        self.advance(record.getMessage(), float(done), total, unit, getattr(record, "figures", None))

    def advance(self, stage: str, done: float, total: float | None, unit: str, figures: str | None) -> None:
        """Move the bar of `stage`; a new stage name begins a new bar."""
        now = time.monotonic()
        if stage != self.stage:
            self.close()
            self.stage, self.started, self.shown = stage, now, 0.0
        if figures is None:
            rate = done / (now - self.started) if now > self.started else 0.0
            of = f"/{total:,.0f}" if total is not None else ""
            figures = f"{done:,.0f}{of} {unit}  {rate:,.0f}/s"
        finished = total is not None and done >= total
        if not self.console.is_terminal:
            if finished or now - self.shown >= PLAIN_SECONDS:
                self.shown = now
                share = f"{100 * done / total:3.0f} %  " if total else ""
                self.console.print(
                    f"{stage}: {share}{figures}", markup=False, highlight=False, soft_wrap=True
                )
            return
        if self.task is None:
            self.bar.start()
            self.task = self.bar.add_task(stage, total=total, figures=figures)
        self.bar.update(self.task, completed=done, figures=figures, refresh=finished)

    def close(self) -> None:
        if self.task is not None:
            self.bar.stop()
            self.bar.remove_task(self.task)
        self.task, self.stage = None, ""
        super().close()


def set_up_logging(*, quiet: bool = False) -> ProgressHandler:
    """Send the stages' records to standard error. Returns the handler; close it before printing results."""
    handler = ProgressHandler(Console(stderr=True))
    root = logging.getLogger("smalltale")
    root.handlers = [handler]
    root.setLevel(logging.WARNING if quiet else logging.INFO)
    root.propagate = False
    return handler
