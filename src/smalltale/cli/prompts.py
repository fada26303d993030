"""`smalltale prompts`: make a prompt set, and check whether a training text contains its prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option


def add_to(app: typer.Typer) -> None:
    prompts = typer.Typer(help="Make and check prompt sets (beginnings of stories).", no_args_is_help=True)
    app.add_typer(prompts, name="prompts")
    prompts.command("make")(make)
    prompts.command("check")(check)


def make(
    stories: Annotated[Path, Argument(help="Held-out stories: a text file or a corpus folder.")],
    out: Annotated[Path, Option(help="The prompt file to write (.jsonl).")],
    count: Annotated[int, Option(min=1, help="Number of prompts.")] = 44,
    seed: Annotated[int, Option(help="Random seed.")] = 0,
) -> None:
    """Cut beginnings of held-out stories, half of them at a sentence end, half inside a sentence."""
    from smalltale.cli.stories import read_stories_from
    from smalltale.prompts import make_prompts, write_prompts

    write_prompts(out, make_prompts(list(read_stories_from(stories, "val")), count, seed))
    typer.echo(f"{out}: {count} prompts")


def check(
    file: Annotated[Path, Argument(help="A prompt file.")],
    against: Annotated[Path, Option(help="Training stories: a text file or a corpus folder.")],
) -> None:
    """List the prompts that a training text contains; exit code 2 if there are any."""
    from smalltale.cli.stories import read_stories_from
    from smalltale.prompts import find_leaked_prompts, read_prompts

    prompts = read_prompts(file)
    leaks = find_leaked_prompts(prompts, read_stories_from(against))
    for leak in leaks:
        prompt, story = leak.prompt + 1, leak.story + 1
        typer.echo(f"prompt {prompt}: {leak.words} of its words are in story {story}: {leak.span!r}")
    typer.echo(f"{file}: {len(leaks)} of {len(prompts)} prompts leaked")
    if leaks:
        raise typer.Exit(2)
