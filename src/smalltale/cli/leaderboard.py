"""`smalltale leaderboard`: judged entries in, a ranked table out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from smalltale.ranking.standings import Standing


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command("leaderboard")(leaderboard)


def leaderboard(
    judged: Annotated[
        list[Path], typer.Argument(help="Folders that `smalltale judge run` wrote, one an entry.")
    ],
    weight_class: Annotated[
        str | None, typer.Option("--class", help="Only entries of this weight class.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of a table.")
    ] = False,
) -> None:
    """Rank judged entries: means with intervals, ties where the noise does not separate them."""
    import json

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
        print(
            json.dumps({"class": weight_class, "standings": [as_row(each) for each in standings]}, indent=2)
        )
    else:
        show(standings, weight_class)


def as_row(standing: Standing) -> dict[str, object]:
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


def show(standings: list[Standing], weight_class: str | None) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    criteria = list(dict.fromkeys(name for each in standings for name in each.entry.criteria))
    table = Table(title=f"Leaderboard, {weight_class or 'all classes'}")
    for heading in ("rank", "entry", "class", "parameters", "overall", "95 %", *criteria, "judged", "note"):
        table.add_column(heading, justify="left" if heading in {"entry", "class", "note"} else "right")
    for each in standings:
        entry = each.entry
        table.add_row(
            "" if each.rank is None else f"{each.rank}{'=' if each.tied else ''}",
            Text(entry.name),
            entry.weight_class,
            "" if entry.counted_parameters is None else f"{entry.counted_parameters:,}",
            "" if entry.mean is None else f"{entry.mean:.2f}",
            "" if entry.low is None or entry.high is None else f"{entry.low:.2f} to {entry.high:.2f}",
            *("" if name not in entry.criteria else f"{entry.criteria[name]:.2f}" for name in criteria),
            f"{entry.judged}/{entry.expected}",
            Text(each.note),
        )
    Console().print(table)
