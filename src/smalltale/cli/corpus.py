"""`smalltale corpus`: text in, a corpus folder out, and what is in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from smalltale.corpus.build import CorpusSummary
    from smalltale.corpus.report import CorpusReport


def add_to(app: typer.Typer) -> None:
    """Register `corpus build` and `corpus report`."""
    corpus = typer.Typer(help="Read, clean, deduplicate, mix and split text.", no_args_is_help=True)
    app.add_typer(corpus, name="corpus")

    @corpus.command("build")
    def build(
        out: Annotated[Path, typer.Option(help="The corpus folder to write.")],
        recipe: Annotated[str, typer.Argument(help="A recipe's name or path.")] = "demo",
        source: Annotated[
            list[str] | None,
            typer.Option(help="A short name, NAME=PATH, file, folder or glob; may be given again."),
        ] = None,
        set_: Annotated[
            list[str] | None, typer.Option("--set", help="section.key=value over the recipe.")
        ] = None,
    ) -> None:
        """Build a corpus folder from sources; a build that was stopped goes on where it stopped."""
        from smalltale.config import load_recipe
        from smalltale.corpus.build import CorpusConfig, build_corpus

        loaded = load_recipe(recipe, set_ or [])
        config = loaded.section("corpus", CorpusConfig)
        if source:
            config = replace(config, sources=tuple(source))
        show_summary(build_corpus(config, out, loaded.as_dict()), out)

    @corpus.command("report")
    def report(
        folder: Annotated[Path, typer.Argument(help="A corpus folder.")],
        html: Annotated[
            Path | None, typer.Option(help="Where the page goes; report.html in the folder without it.")
        ] = None,
    ) -> None:
        """Say what is in a corpus, here and as one self-contained HTML page."""
        from smalltale.corpus.report import make_report, write_report

        made = make_report(folder)
        page = html or folder / "report.html"
        write_report(made, page)
        show_report(made)
        Console().print(f"page: {page}", highlight=False, soft_wrap=True)


def table_of(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(
            column, justify="right" if number and column not in ("what it means", "dropped") else "left"
        )
    return table


def show_summary(summary: CorpusSummary, out: Path) -> None:
    console = Console()
    sources = table_of("Sources", "source", "read", "kept", "in train", "dropped")
    for name, row in summary.sources.items():
        drops = ", ".join(f"{reason} {count:,}" for reason, count in row["dropped"].items())
        sources.add_row(name, f"{row['read']:,}", f"{row['kept']:,}", f"{row['in_train']:,}", drops or "none")
    console.print(sources)
    mends = ", ".join(f"{rule} {count:,}" for rule, count in summary.fixes.items()) or "none"
    console.print(
        f"mended: {mends}\n{out}: {summary.train_stories:,} train and {summary.val_stories:,} val stories, "
        f"{summary.bytes / 1e6:.1f} MB, in {summary.seconds:.1f} s",
        highlight=False,
        soft_wrap=True,
    )


def show_report(report: CorpusReport) -> None:
    console = Console()
    counts = report.meta["counts"]
    console.print(
        f"{report.name}: {counts['train_stories']:,} train and {counts['val_stories']:,} val stories, {counts['bytes'] / 1e6:.1f} MB; "
        f"{report.mean_words:.0f} words a story (median {report.median_words}), {report.distinct:,} distinct words "
        f"in {report.sampled:,} stories",
        highlight=False,
        soft_wrap=True,
    )
    if report.fixes:
        mended = table_of("Mended", "rule", "stories", "what it means")
        for rule, meaning, count in report.fixes:
            mended.add_row(rule, f"{count:,}", meaning)
        console.print(mended)
    if report.dropped:
        dropped = table_of("Dropped", "reason", "stories", "what it means")
        for reason, meaning, count, _ in report.dropped:
            dropped.add_row(reason, f"{count:,}", meaning)
        console.print(dropped)
    openings = table_of("Openings", "first words", "share")
    for opening, share in report.openings[:8]:
        openings.add_row(f"{opening} …", f"{100 * share:.2f} %")
    console.print(openings)
