"""`smalltale leaderboard`: rank judged entries."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer import Argument, Option

from smalltale.cli.options import AsJson

if TYPE_CHECKING:
    from smalltale.ranking.standings import Standing


def add_to(app: typer.Typer) -> None:
    app.command("leaderboard")(leaderboard)


def leaderboard(
    judged: Annotated[list[Path], Argument(help="Folders that `smalltale judge run` wrote, one per entry.")],
    weight_class: Annotated[str | None, Option("--class", help="Only entries of this weight class.")] = None,
    as_json: AsJson = False,
) -> None:
    """Rank judged entries by mean score; entries that the noise does not separate tie."""
    from smalltale.ranking.entries import read_entry
    from smalltale.ranking.standings import rank
    from smalltale.rules import Rules

    if weight_class is not None:
        Rules().weight_class(weight_class)
    entries = [read_entry(folder) for folder in judged]
    if weight_class is not None:
        entries = [entry for entry in entries if entry.weight_class == weight_class]
    standings = rank(entries)
    if as_json:
        rows = [standing_as_dict(standing) for standing in standings]
        typer.echo(json.dumps({"class": weight_class, "standings": rows}, indent=2))
    else:
        show_standings(standings, weight_class)


def standing_as_dict(standing: Standing) -> dict[str, object]:
    """One standing as plain data."""
    entry = standing.entry
    return {
        "rank": standing.rank,
        "tied": standing.tied,
        "entry": entry.name,
        "class": entry.weight_class,
        "counted_parameters": entry.counted_parameters,
        "mean": entry.mean,
        "low": entry.low,
        "high": entry.high,
        "criteria": dict(entry.criteria),
        "judged": entry.judged,
        "expected": entry.expected,
        "disagreement": entry.disagreement,
        "qualified": entry.qualified,
        "note": standing.note,
    }


def show_standings(standings: Sequence[Standing], weight_class: str | None) -> None:
    """Print the table."""
    criteria = list(dict.fromkeys(name for standing in standings for name in standing.entry.criteria))
    table = Table(title=f"Leaderboard, {weight_class or 'all classes'}")
    for heading in ("rank", "entry", "class", "parameters", "overall", "95 %", *criteria, "judged", "note"):
        table.add_column(heading, justify="left" if heading in {"entry", "class", "note"} else "right")
    for standing in standings:
        entry = standing.entry
        table.add_row(
            "" if standing.rank is None else f"{standing.rank}{'=' if standing.tied else ''}",
            Text(entry.name),
            entry.weight_class,
            "" if entry.counted_parameters is None else f"{entry.counted_parameters:,}",
            "" if entry.mean is None else f"{entry.mean:.2f}",
            "" if entry.low is None or entry.high is None else f"{entry.low:.2f} to {entry.high:.2f}",
            *("" if name not in entry.criteria else f"{entry.criteria[name]:.2f}" for name in criteria),
            f"{entry.judged}/{entry.expected}",
            Text(standing.note),
        )
    Console().print(table)
