"""Log set-up and progress display: a live one on a terminal, plain lines in a pipe.

In: logging records of the stages. A record with `extra={"done": n, "total": m, "unit": "stories"}` moves a bar (m is None
where it is not known; `figures`, short words with the most important first, replace the count shown); any other is a line.
Out: what a person sees, on standard error.
Beware: a stage that begins while another has not reached its total is drawn below it, and the other goes on afterwards.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

PLAIN_SECONDS = 5.0
"""At most one progress line a stage in so many seconds where the output is not a terminal."""
REDRAWS_PER_SECOND = 4
LEAST_BAR = 20
"""Columns of a bar that are worth drawing beside a stage's figures; with fewer, those have a line of their own."""
MOST_BAR = 60
DEEPEST = 2
"""Stages shown at once."""


@dataclass(kw_only=True)
class Stage:
    """Something under way, as last reported."""

    name: str
    began: float
    first: float
    """`done` when it began: a resumed run does not begin at 0, and its speed is that of what it did since."""
    shown: float
    """When its last plain line was written."""
    reported: float = 0.0
    done: float = 0.0
    total: float | None = None
    words: Sequence[str] = ()

    @property
    def finished(self) -> bool:
        return self.total is not None and self.done >= self.total

    @property
    def share(self) -> str:
        return f"{100 * self.done / self.total:3.0f} %" if self.total else ""

    @property
    def left(self) -> str:
        """The time that the rest takes at the speed so far, as words."""
        advanced = self.done - self.first
        if self.total is None or self.finished or advanced <= 0:
            return ""
        return f"{clock((self.reported - self.began) * (self.total - self.done) / advanced)} left"

    def report(self, now: float, done: float, total: float | None, unit: str, words: Sequence[str]) -> None:
        """Take in a record."""
        self.reported, self.done, self.total = now, done, total
        if not words:
            seconds = now - self.began
            of = f"/{total:,.0f}" if total is not None else ""
            words = [f"{done:,.0f}{of} {unit}"]
            if seconds > 0 and done > self.first:
                words.append(f"{(done - self.first) / seconds:,.0f}/s")
        self.words = words

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """One line, or two where the words leave no room for a bar; words that do not fit are left out whole."""
        if not self.total:
            yield Text(fitting([self.name, *self.words], options.max_width))
            return
        words = fitting(self.words, options.max_width)
        around = fitting(
            [each for each in (self.share, self.left) if each], options.max_width - len(self.name) - 2
        )
        room = options.max_width - len(self.name) - len(around) - 4
        together = room - len(words) - 2 >= LEAST_BAR
        width = min(MOST_BAR, room - len(words) - 2 if together else room)
        bar = ProgressBar(total=self.total, completed=min(self.done, self.total), width=max(1, width))
        cells: list[RenderableType] = [
            Text(self.name),
            bar,
            Text(around),
            *([Text(words)] if together else []),
        ]
        row = Table.grid(*("" for _ in cells), padding=(0, 2, 0, 0))
        row.add_row(*cells)
        yield row
        if not together:
            yield Text(words)


class ProgressHandler(logging.Handler):
    """Shows the records of the `smalltale` loggers."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self.console = console
        self.draws = console.is_terminal and not console.is_dumb_terminal
        self.stages: list[Stage] = []
        self.live: Live | None = None

    def emit(self, record: logging.LogRecord) -> None:
        done = getattr(record, "done", None)
        if done is None:
            self.console.print(record.getMessage(), markup=False, highlight=False, soft_wrap=True)
            return
        stage = self.stage(record.getMessage(), float(done))
        total, unit = getattr(record, "total", None), getattr(record, "unit", "")
        stage.report(time.monotonic(), float(done), total, unit, getattr(record, "figures", ()))
        if self.draws:
            self.draw()
        else:
            self.write_plainly(stage)
        if stage.finished:
            self.stages.remove(stage)
            if not self.stages:
                self.close()

    def stage(self, name: str, done: float) -> Stage:
        """The stage of that name; a new one stands below those that are not at their end."""
        for number, each in enumerate(self.stages):
            if each.name == name:
                del self.stages[number + 1 :]
                return each
        kept = [each for each in self.stages if each.total is not None][-(DEEPEST - 1) :]
        now = time.monotonic()
        self.stages = [*kept, Stage(name=name, began=now, first=done, shown=now if kept else 0.0)]
        return self.stages[-1]

    def write_plainly(self, stage: Stage) -> None:
        """A line for a pipe, if it is time for one; a short stage inside another is not worth one."""
        now = time.monotonic()
        inner = stage is not self.stages[0]
        if now - stage.shown < PLAIN_SECONDS and (inner or not stage.finished):
            return
        stage.shown = now
        words = "  ".join(each for each in (stage.share, *stage.words, stage.left) if each)
        self.console.print(f"{stage.name}: {words}", markup=False, highlight=False, soft_wrap=True)

    def draw(self) -> None:
        """Show the stages; the display is drawn anew a few times a second."""
        if self.live is None:
            self.live = Live(
                get_renderable=self.drawn,
                console=self.console,
                refresh_per_second=REDRAWS_PER_SECOND,
                transient=True,
                # Results in a pipe must not be drawn into the terminal.
                redirect_stdout=sys.stdout.isatty(),
            )
            self.live.start()

    def drawn(self) -> Table:
        rows = Table.grid()
        for each in tuple(self.stages):
            rows.add_row(each)
        return rows

    def close(self) -> None:
        """Take the display away; a later record brings it back."""
        self.stages = []
        if self.live is not None:
            live, self.live = self.live, None
            live.stop()


def fitting(words: Sequence[str], width: int) -> str:
    """As many of the words, from the first on, as stand in a line."""
    kept = list(words)
    while len(kept) > 1 and len("  ".join(kept)) > width:
        kept.pop()
    return "  ".join(kept)[:width]


def clock(seconds: float) -> str:
    """A length of time as 1:05, with hours 2:01:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def set_up_logging(*, quiet: bool = False) -> ProgressHandler:
    """Send the stages' records to standard error. Returns the handler; close it before the process ends."""
    handler = ProgressHandler(Console(stderr=True))
    root = logging.getLogger("smalltale")
    root.handlers = [handler]
    root.setLevel(logging.WARNING if quiet else logging.INFO)
    root.propagate = False
    return handler
