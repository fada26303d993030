"""`smalltale measure`: story metrics without a judge."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from typer import Option

from smalltale.cli.options import AsJson, SubmissionFile

if TYPE_CHECKING:
    from smalltale.metrics.metrics import StoryMetrics


def add_to(app: typer.Typer) -> None:
    app.command("measure")(measure)


def measure(
    file: SubmissionFile,
    training: Annotated[
        Path | None, Option(help="Training stories (text file or corpus folder) to search for copied text.")
    ] = None,
    plots: Annotated[Path | None, Option(help="Write histograms to this .svg, .png or .pdf.")] = None,
    signals: Annotated[
        Path | None,
        Option(help="Write the signals of each completion, for the offline referee, to this .jsonl."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the diversity, completeness and copying of a submission's stories."""
    from smalltale.cli.stories import read_stories_from
    from smalltale.metrics.metrics import compute_metrics
    from smalltale.submission import read_submission

    rows = read_submission(file)
    metrics = compute_metrics(rows, read_stories_from(training) if training is not None else None)
    if signals is not None:
        from smalltale.metrics.features import write_features

        write_features(signals, rows)
    if plots is not None:
        write_histograms(metrics, plots)
    if as_json:
        typer.echo(json.dumps(asdict(metrics)))
        return
    table = Table("metric", "value", title=str(file))
    for name, value in asdict(metrics).items():
        if name != "rows" and value is not None:
            table.add_row(name, f"{value:.3f}" if isinstance(value, float) else f"{value:,}")
    Console().print(table)


def write_histograms(metrics: StoryMetrics, path: Path) -> None:
    """Histograms of length, repetition and copied words."""
    from matplotlib.figure import Figure

    from smalltale.errors import FileProblem
    from smalltale.files import atomic_file

    if path.suffix.lower() not in {".svg", ".png", ".pdf"}:
        raise FileProblem(f"{path}: unsupported file type; use .svg, .png or .pdf")
    histograms: list[tuple[str, list[float]]] = [
        ("words", [row.words for row in metrics.rows]),
        ("share of repeated four-word runs", [row.repeated_share for row in metrics.rows]),
    ]
    copied_words = [float(row.copied_words) for row in metrics.rows if row.copied_words is not None]
    if copied_words:
        histograms.append(("words of the longest copied span", copied_words))
    figure = Figure(figsize=(4 * len(histograms), 3.2), layout="constrained")
    for axes, (label, values) in zip(figure.subplots(1, len(histograms)), histograms, strict=True):
        axes.hist(values, bins=20, range=(0, max(1e-9, *values)), color="#08519c")
        axes.set_xlabel(label)
        axes.set_ylabel("completions")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower())
