"""Logging setup and progress display: rich's bars on a terminal, a line every few seconds in a pipe.

Input: records of the `smalltale` loggers. A record with `extra={"done": n, "total": m, "unit": "stories"}` updates the stage
named by its message (m is None while unknown; `figures`, short texts with the most important first, replace the count);
every other record is printed as a line. Output: standard error.
Note: a stage that starts inside another is shown below it; the outer one continues when the inner one has finished.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import timedelta

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

SECONDS_BETWEEN_LINES = 5.0
"""Least time between two progress lines of one stage where the output is not a terminal."""
REDRAWS_PER_SECOND = 4
SPEED_WINDOW_SECONDS = 120.0
"""The remaining time is estimated from the speed over this window."""


class StageProgress(Progress):
    """rich's progress bars, with the figures of each stage on a line of their own."""

    def get_renderables(self) -> Iterable[RenderableType]:
        for task in self.tasks:
            if task.total is None:
                yield Text(fit_width([task.description, *task.fields["figures"]], self.console.width))
            else:
                yield self.make_tasks_table([task])
                yield Text(fit_width(task.fields["figures"], self.console.width))


class ProgressHandler(logging.Handler):
    """Shows the records of the `smalltale` loggers on a console."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self.console = console
        self.draws_bars = console.is_terminal and not console.is_dumb_terminal
        self.progress = self.new_progress()

    def new_progress(self) -> StageProgress:
        return StageProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            refresh_per_second=REDRAWS_PER_SECOND,
            speed_estimate_period=SPEED_WINDOW_SECONDS,
            disable=not self.draws_bars,
            # With results piped to a file, prints must go there and not above the bars.
            redirect_stdout=sys.stdout.isatty(),
        )

    def emit(self, record: logging.LogRecord) -> None:
        done = getattr(record, "done", None)
        if done is None:
            self.console.print(record.getMessage(), markup=False, highlight=False, soft_wrap=True)
            return
        total = getattr(record, "total", None)
        task = self.start_or_resume_stage(record.getMessage(), total)
        # rich leaves the first update out of the speed, so a resumed run counts only what it does from here.
        self.progress.update(task.id, completed=done, total=total)
        figures = getattr(record, "figures", None) or count_figures(task, getattr(record, "unit", ""))
        self.progress.update(task.id, figures=figures)
        if self.draws_bars:
            self.progress.start()
        else:
            self.print_line(task)
        if task.finished:
            self.progress.remove_task(task.id)
            if not self.progress.tasks:
                self.close()

    def start_or_resume_stage(self, name: str, total: float | None) -> Task:
        """Make the stage of that name the innermost one; a new stage keeps only the last unfinished one above it."""
        tasks = self.progress.tasks
        names = [task.description for task in tasks]
        if name in names:
            shown = tasks[: names.index(name) + 1]
        else:
            shown = [task for task in tasks if task.total is not None][-1:]
            printed_at = time.monotonic() if shown else float("-inf")
            self.progress.add_task(name, total=total, figures=(), printed_at=printed_at)
            shown.append(self.progress.tasks[-1])
        shown_ids = {task.id for task in shown}
        for task in tasks:
            if task.id not in shown_ids:
                self.progress.remove_task(task.id)
        return shown[-1]

    def print_line(self, task: Task) -> None:
        """Print a stage's state at most every SECONDS_BETWEEN_LINES; a short stage inside another is never printed."""
        now = time.monotonic()
        is_inner = task.id != self.progress.tasks[0].id
        if now - task.fields["printed_at"] < SECONDS_BETWEEN_LINES and (is_inner or not task.finished):
            return
        task.fields["printed_at"] = now
        parts = [f"{task.percentage:3.0f} %"] if task.total else []
        parts += task.fields["figures"]
        if task.time_remaining:
            parts.append(f"{timedelta(seconds=round(task.time_remaining))} left")
        line = f"{task.description}: {'  '.join(parts)}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Remove the bars; a later record starts new ones."""
        if self.draws_bars:  # in a pipe, stop() would print an empty line
            self.progress.stop()
        self.progress = self.new_progress()


def count_figures(task: Task, unit: str) -> list[str]:
    """The count and, once it is known, the speed of a stage that logs no figures."""
    total = f"/{task.total:,.0f}" if task.total is not None else ""
    speed = [f"{task.speed:,.0f}/s"] if task.speed else []
    return [f"{task.completed:,.0f}{total} {unit}", *speed]


def fit_width(words: Sequence[str], width: int) -> str:
    """The first of `words`, joined, that fit into `width` columns; a single word that is too long is cut."""
    fitting = list(words)
    while len(fitting) > 1 and len("  ".join(fitting)) > width:
        fitting.pop()
    return "  ".join(fitting)[:width]


def set_up_logging() -> ProgressHandler:
    """Send the stages' records to standard error. Returns the handler; close it before the process ends."""
    handler = ProgressHandler(Console(stderr=True))
    root = logging.getLogger("smalltale")
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    root.propagate = False
    return handler
