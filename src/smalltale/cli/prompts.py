"""`smalltale prompts`: make a prompt set, and look whether one has leaked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def add_to(app: typer.Typer) -> None:
    """Register `prompts make` and `prompts check`."""
    prompts = typer.Typer(help="Prompt sets: beginnings of stories.", no_args_is_help=True)
    app.add_typer(prompts, name="prompts")

    @prompts.command("make")
    def make(
        stories: Annotated[Path, typer.Argument(help="Held-out stories: a text file or a corpus folder.")],
        out: Annotated[Path, typer.Option(help="The prompt file to write (.jsonl).")],
        count: Annotated[int, typer.Option(min=1, help="Prompts to make.")] = 44,
        seed: Annotated[int, typer.Option(help="Another choice of stories.")] = 0,
    ) -> None:
        """Cut beginnings of held-out stories, half of them at a sentence, half inside one."""
        from smalltale.cli.stories import read_stories_from
        from smalltale.prompts import make_prompts, write_prompts

        write_prompts(out, make_prompts(list(read_stories_from(stories, "val")), count, seed))
        Console().print(f"{out}: {count} prompts", markup=False, highlight=False, soft_wrap=True)

    @prompts.command("check")
    def check(
        file: Annotated[Path, typer.Argument(help="A prompt file.")],
        against: Annotated[
            Path, typer.Option(help="Training stories (text file or corpus folder) that must not hold them.")
        ],
    ) -> None:
        """Name the prompts that stand in a training text; exit code 2 where there are any."""
        from smalltale.cli.stories import read_stories_from
        from smalltale.prompts import find_leaked_prompts, read_prompts

        asked = read_prompts(file)
        leaks = find_leaked_prompts(asked, read_stories_from(against))
        console = Console()
        for leak in leaks:
            console.print(
                f"prompt {leak.prompt + 1}: {leak.words} words of it stand in story {leak.story + 1}: {leak.span!r}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        console.print(f"{file}: {len(leaks)} of {len(asked)} prompts leaked", markup=False, highlight=False)
        if leaks:
            raise typer.Exit(2)
