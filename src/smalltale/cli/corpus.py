"""`smalltale corpus`: build a corpus folder from text sources, and report what it contains."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from typer import Argument, Option

from smalltale.cli.options import Overrides, RecipeArgument

if TYPE_CHECKING:
    from smalltale.corpus.build import CorpusSummary
    from smalltale.corpus.report import CorpusReport


def add_to(app: typer.Typer) -> None:
    corpus = typer.Typer(help="Read, clean, deduplicate, mix and split text.", no_args_is_help=True)
    app.add_typer(corpus, name="corpus")
    corpus.command("build")(build)
    corpus.command("report")(report)


def build(
    out: Annotated[Path, Option(help="The corpus folder to write.")],
    recipe: RecipeArgument = "demo",
    source: Annotated[
        list[str] | None, Option(help="A short name, NAME=PATH, file, folder or glob; may be repeated.")
    ] = None,
    set_: Overrides = None,
) -> None:
    """Build a corpus folder from sources; a stopped build continues where it stopped."""
    from smalltale.config import load_recipe
    from smalltale.corpus.build import build_corpus
    from smalltale.corpus.config import CorpusConfig

    loaded = load_recipe(recipe, set_ or [])
    config = loaded.section("corpus", CorpusConfig)
    if source:
        config = replace(config, sources=tuple(source))
    show_summary(build_corpus(config, out, loaded.as_dict()), out)


def report(
    folder: Annotated[Path, Argument(help="A corpus folder.")],
    html: Annotated[Path | None, Option(help="The page to write (default: FOLDER/report.html).")] = None,
) -> None:
    """Summarise a corpus on the terminal and as a self-contained HTML page."""
    from smalltale.corpus.report import make_report, write_report

    result = make_report(folder)
    page = html or folder / "report.html"
    write_report(result, page)
    show_report(result)
    typer.echo(f"page: {page}")


def create_table(title: str, *columns: str) -> Table:
    """A table whose figures are right-aligned."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        is_text = index == 0 or column in ("meaning", "dropped")
        table.add_column(column, justify="left" if is_text else "right")
    return table


def show_summary(summary: CorpusSummary, out: Path) -> None:
    """Print what a build did."""
    sources = create_table("Sources", "source", "read", "kept", "in train", "dropped")
    for name, row in summary.sources.items():
        drops = ", ".join(f"{reason} {count:,}" for reason, count in row["dropped"].items())
        sources.add_row(name, f"{row['read']:,}", f"{row['kept']:,}", f"{row['in_train']:,}", drops or "none")
    Console().print(sources)
    fixes = ", ".join(f"{rule} {count:,}" for rule, count in summary.fixes.items()) or "none"
    typer.echo(
        f"fixed: {fixes}\n{out}: {summary.train_stories:,} train and {summary.val_stories:,} val stories, "
        f"{summary.bytes / 1e6:.1f} MB, in {summary.seconds:.1f} s"
    )


def show_report(report: CorpusReport) -> None:
    """Print the summary of a corpus."""
    console = Console()
    counts = report.meta["counts"]
    typer.echo(
        f"{report.name}: {counts['train_stories']:,} train and {counts['val_stories']:,} val stories, "
        f"{counts['bytes'] / 1e6:.1f} MB; {report.mean_words:.0f} words per story (median {report.median_words}), "
        f"{report.distinct:,} distinct words in {report.sampled:,} stories"
    )
    if report.fixes:
        fixes = create_table("Fixed", "rule", "stories", "meaning")
        for rule, meaning, count in report.fixes:
            fixes.add_row(rule, f"{count:,}", meaning)
        console.print(fixes)
    if report.dropped:
        dropped = create_table("Dropped", "reason", "stories", "meaning")
        for reason, meaning, count, _ in report.dropped:
            dropped.add_row(reason, f"{count:,}", meaning)
        console.print(dropped)
    openings = create_table("Openings", "first words", "share")
    for opening, share in report.openings[:8]:
        openings.add_row(f"{opening} …", f"{100 * share:.2f} %")
    console.print(openings)
