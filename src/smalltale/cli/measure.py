"""`smalltale measure`: story metrics without a judge."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from smalltale.metrics.metrics import StoryMetrics


def add_to(app: typer.Typer) -> None:
    """Register `measure`."""

    @app.command("measure")
    def measure_verb(
        file: Annotated[Path, typer.Argument(help="A hand-in: .csv, .jsonl or .parquet.")],
        training: Annotated[
            Path | None,
            typer.Option(help="Training stories (text file or corpus folder), to find copies of."),
        ] = None,
        plots: Annotated[Path | None, typer.Option(help="Write plots to this file (.svg, .png).")] = None,
        signals: Annotated[
            Path | None,
            typer.Option(help="Write every completion's signals, for the offline referee, to this .jsonl."),
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
    ) -> None:
        """How different, how whole and how much copied the completions are."""
        from smalltale.cli.stories import read_stories_from
        from smalltale.metrics.metrics import compute_metrics
        from smalltale.submission import read_submission

        rows = read_submission(file)
        found = compute_metrics(rows, read_stories_from(training) if training is not None else None)
        if signals is not None:
            from smalltale.metrics.features import write_features

            write_features(signals, rows)
        if plots is not None:
            draw(found, plots)
        if as_json:
            typer.echo(json.dumps(asdict(found)))
            return
        table = Table("measure", "value", title=str(file))
        for name, value in asdict(found).items():
            if name != "rows" and value is not None:
                table.add_row(name, f"{value:.3f}" if isinstance(value, float) else f"{value:,}")
        Console().print(table)


def draw(found: StoryMetrics, path: Path) -> None:
    """Histograms of length, repetition and copied words."""
    from matplotlib.figure import Figure

    from smalltale.errors import FileProblem
    from smalltale.files import atomic_file

    if path.suffix.lower() not in {".svg", ".png", ".pdf"}:
        raise FileProblem(f"{path}: plots are written as .svg, .png or .pdf; choose one of these endings")
    shown: list[tuple[str, list[float]]] = [
        ("words", [row.words for row in found.rows]),
        ("share of repeated four-word runs", [row.repeated_share for row in found.rows]),
    ]
    copied = [float(row.copied_words) for row in found.rows if row.copied_words is not None]
    if copied:
        shown.append(("words of the longest copied span", copied))
    figure = Figure(figsize=(4 * len(shown), 3.2), layout="constrained")
    for axes, (name, values) in zip(figure.subplots(1, len(shown)), shown, strict=True):
        axes.hist(values, bins=20, range=(0, max(1e-9, *values)), color="#08519c")
        axes.set_xlabel(name)
        axes.set_ylabel("completions")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower())
