"""`smalltale runs`: list, compare and plot training runs."""

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
from typer import Argument, Option

from smalltale.cli.options import AsJson

if TYPE_CHECKING:
    from smalltale.experiments.runs import TrainingRun

PIPE_WIDTH = 240
"""Table width where the output is not a terminal."""
MAX_WIDTH = 10_000
MIN_CELL_WIDTH = 5


def add_to(app: typer.Typer) -> None:
    app.command("runs")(runs)


def runs(
    folders: Annotated[
        list[Path] | None, Argument(help="Runs, or folders that contain runs; by default the current folder.")
    ] = None,
    compare: Annotated[bool, Option("--compare", help="Show settings that differ between the runs.")] = False,
    plot: Annotated[Path | None, Option(help="Write the curves to this .png, .svg or .pdf.")] = None,
    html: Annotated[Path | None, Option(help="Write table, settings and curves as one page.")] = None,
    as_json: AsJson = False,
) -> None:
    """List training runs, newest first; compare their settings; plot loss and bits per byte."""
    from smalltale.experiments.compare import differing_settings
    from smalltale.experiments.runs import find_runs

    runs = find_runs(folders or [Path()])
    console = Console() if Console().is_terminal else Console(width=PIPE_WIDTH)
    notes: list[str] = []
    if plot is not None or html is not None:
        from smalltale.experiments.plots import list_omissions

        notes = list_omissions(runs)
    if plot is not None:
        from smalltale.experiments.plots import write_figure

        write_figure(runs, plot)
    if html is not None:
        from smalltale.experiments.report_page import write_page

        write_page(runs, html)
    if as_json:
        rows = [run.as_dict() for run in runs]
        summary = {"runs": rows, "differing": differing_settings(runs), "notes": notes}
        typer.echo(json.dumps(summary, ensure_ascii=False))
        return
    show_runs(runs, console)
    if compare:
        show_differing(runs, console)
    for line in notes + [f"written: {path}" for path in (plot, html) if path is not None]:
        typer.echo(line)


def show_runs(runs: Sequence[TrainingRun], console: Console) -> None:
    """Print the table of runs with as many columns as fit, and the problems of each run."""
    from smalltale.experiments.compare import COLUMNS, format_cells

    shown = list(COLUMNS)
    while True:
        table = Table()
        for column in shown:
            table.add_column(
                column.heading.replace(" ", "\n"),
                justify="right" if column.number else "left",
                vertical="bottom",
                no_wrap=column.number,
            )
        for run in runs:
            row = format_cells(run)
            table.add_row(*(Text(row[column.heading]) for column in shown))
        least_important = max(shown, key=lambda column: column.importance)
        # Measured for a wide console: rich never measures more than the width of the console.
        natural = Measurement.get(console, console.options.update(width=MAX_WIDTH), table).maximum
        if not least_important.importance or natural <= console.width:
            break
        shown.remove(least_important)
    console.print(table)
    hidden = [column.heading for column in COLUMNS if column not in shown]
    if hidden:
        line = f"hidden, the terminal is too narrow: {', '.join(hidden)}"
        console.print(line, style="dim", highlight=False, soft_wrap=True)
    for run in runs:
        for problem in run.problems:
            console.print(f"{run.name}: {problem}", highlight=False, markup=False, soft_wrap=True)


def show_differing(runs: Sequence[TrainingRun], console: Console) -> None:
    """Print the settings that differ between the runs."""
    from smalltale.experiments.compare import differing_settings, format_setting

    values_by_setting = differing_settings(runs)
    if not values_by_setting:
        console.print("the runs' settings do not differ", highlight=False)
        return
    names = [run.name for run in runs]
    columns_width = sum(max(MIN_CELL_WIDTH, len(name)) + 3 for name in names)
    if max(map(len, values_by_setting)) + columns_width + 4 > console.width:
        show_by_value(values_by_setting, names, console)
        return
    table = Table()
    table.add_column("setting", no_wrap=True)
    for name in names:
        table.add_column(Text(name), overflow="fold")
    for key, values in values_by_setting.items():
        table.add_row(Text(key), *(Text(format_setting(value)) for value in values))
    console.print(table)


def show_by_value(
    values_by_setting: Mapping[str, Sequence[Any]], names: Sequence[str], console: Console
) -> None:
    """Print each setting's values with the names of their runs, for settings too wide for a table."""
    from smalltale.experiments.compare import format_setting

    for key, values in values_by_setting.items():
        console.print(Text(key, style="bold"))
        names_by_value: dict[str, list[str]] = {}
        for name, value in zip(names, values, strict=True):
            names_by_value.setdefault(format_setting(value), []).append(name)
        for value, run_names in names_by_value.items():
            console.print(Padding(Text(f"{value}: {', '.join(run_names)}"), (0, 0, 0, 2), expand=False))
