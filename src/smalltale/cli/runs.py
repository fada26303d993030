"""`smalltale runs`: training runs listed, compared and drawn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from smalltale.experiments.runs import TrainingRun

PIPE_WIDTH = 240
"""Columns of a table that no terminal limits."""
WIDEST = 10_000
LEAST_CELL = 5


def add_to(app: typer.Typer) -> None:
    """Register `runs`."""

    @app.command("runs")
    def runs_verb(
        folders: Annotated[
            list[Path] | None, typer.Argument(help="Runs, or folders above them; without one, this folder.")
        ] = None,
        compare: Annotated[
            bool, typer.Option("--compare", help="Show the settings in which the runs differ.")
        ] = False,
        plot: Annotated[Path | None, typer.Option(help="Draw curves to this .png, .svg or .pdf.")] = None,
        html: Annotated[Path | None, typer.Option(help="Write all of it as one self-contained page.")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
    ) -> None:
        """List training runs, the newest first; compare them; draw their loss and bits per byte."""
        from smalltale.experiments.compare import differing_settings
        from smalltale.experiments.runs import find_runs

        runs = find_runs(folders or [Path()])
        console = Console() if Console().is_terminal else Console(width=PIPE_WIDTH)
        notes: list[str] = []
        if plot is not None or html is not None:
            from smalltale.experiments.plots import list_omissions as left_out

            notes = left_out(runs)
        if plot is not None:
            from smalltale.experiments.plots import write_figure

            write_figure(runs, plot)
        if html is not None:
            from smalltale.experiments.report_page import write_page

            write_page(runs, html)
        if as_json:
            table = {
                "runs": [run.as_dict() for run in runs],
                "differing": differing_settings(runs),
                "notes": notes,
            }
            typer.echo(json.dumps(table, ensure_ascii=False))
            return
        show_runs(runs, console)
        if compare:
            show_differing(runs, console)
        for line in notes + [f"written: {path}" for path in (plot, html) if path is not None]:
            console.print(line, highlight=False, markup=False, soft_wrap=True)


def show_runs(runs: Sequence[TrainingRun], console: Console) -> None:
    """The table of runs, as many columns as fit, and below it what is wrong with any."""
    from smalltale.experiments.compare import COLUMNS, format_cells

    left = list(COLUMNS)
    while True:
        table = Table()
        for column in left:
            table.add_column(
                column.heading.replace(" ", "\n"),
                justify="right" if column.number else "left",
                vertical="bottom",
                no_wrap=column.number,
            )
        for run in runs:
            row = format_cells(run)
            table.add_row(*(Text(row[column.heading]) for column in left))
        least = max(left, key=lambda column: column.importance)
        # Asked of a wide console: no measure is wider than the console that it is taken on.
        natural = Measurement.get(console, console.options.update(width=WIDEST), table).maximum
        if not least.importance or natural <= console.width:
            break
        left.remove(least)
    console.print(table)
    hidden = [column.heading for column in COLUMNS if column not in left]
    if hidden:
        words = f"not shown for want of width: {', '.join(hidden)}"
        console.print(words, style="dim", highlight=False, soft_wrap=True)
    for run in runs:
        for trouble in run.problems:
            console.print(f"{run.name}: {trouble}", highlight=False, markup=False, soft_wrap=True)


def show_differing(runs: Sequence[TrainingRun], console: Console) -> None:
    """The settings in which the runs differ."""
    from smalltale.experiments.compare import differing_settings, format_setting

    found = differing_settings(runs)
    if not found:
        console.print("the runs' settings do not differ", highlight=False)
        return
    names = [run.name for run in runs]
    if max(map(len, found)) + sum(max(LEAST_CELL, len(name)) + 3 for name in names) + 4 > console.width:
        show_by_value(found, names, console)
        return
    table = Table()
    table.add_column("setting", no_wrap=True)
    for name in names:
        table.add_column(Text(name), overflow="fold")
    for key, values in found.items():
        table.add_row(Text(key), *(Text(format_setting(value)) for value in values))
    console.print(table)


def show_by_value(found: Mapping[str, Sequence[Any]], names: Sequence[str], console: Console) -> None:
    """The same as lines, where a table would be too wide: under each setting its values, and whose they are."""
    from smalltale.experiments.compare import format_setting

    for key, values in found.items():
        console.print(Text(key, style="bold"))
        whose: dict[str, list[str]] = {}
        for name, value in zip(names, values, strict=True):
            whose.setdefault(format_setting(value), []).append(name)
        for value, them in whose.items():
            console.print(Padding(Text(f"{value}: {', '.join(them)}"), (0, 0, 0, 2), expand=False))
