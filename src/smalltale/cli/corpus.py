"""`smalltale corpus`: text in, a corpus folder out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def add_to(app: typer.Typer) -> None:
    """Register `corpus build`."""
    corpus = typer.Typer(help="Read, clean, deduplicate and split text.", no_args_is_help=True)
    app.add_typer(corpus, name="corpus")

    @corpus.command("build")
    def build(
        out: Annotated[Path, typer.Option(help="The corpus folder to write.")],
        recipe: Annotated[str, typer.Argument(help="A recipe's name or path.")] = "demo",
        source: Annotated[
            list[str] | None, typer.Option(help="A short name, file, folder or glob; may be given again.")
        ] = None,
        set_: Annotated[
            list[str] | None, typer.Option("--set", help="section.key=value over the recipe.")
        ] = None,
    ) -> None:
        """Build a corpus folder from sources."""
        from smalltale.corpus.build import CorpusConfig, build_corpus
        from smalltale.recipe import load_recipe

        loaded = load_recipe(recipe, set_ or [])
        config = loaded.section("corpus", CorpusConfig)
        if source:
            config = replace(config, sources=tuple(source))
        summary = build_corpus(config, out, loaded.as_dict())
        Console().print(
            f"{out}: {summary.train_stories:,} train and {summary.val_stories:,} val stories, "
            f"{summary.bytes / 1e6:.1f} MB; dropped {summary.dropped or 'none'}; {summary.seconds:.1f} s",
            highlight=False,
            soft_wrap=True,
        )
