"""`smalltale checkpoint`: export a checkpoint for other programs, or publish it on the Hugging Face Hub."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

CHECKPOINT = Annotated[Path, Argument(help="A checkpoint folder of `smalltale train`.")]


def add_to(app: typer.Typer) -> None:
    verbs = typer.Typer(help="Export a checkpoint to transformers, GGUF or the Hub.", no_args_is_help=True)
    app.add_typer(verbs, name="checkpoint")
    verbs.command("export")(export)
    verbs.command("push")(push)


def export(
    checkpoint: CHECKPOINT,
    to: Annotated[str, Option(help="transformers or gguf.")],
    out: Annotated[Path, Option(help="The folder to write.")],
) -> None:
    """Write a folder for transformers or llama.cpp, then load it and compare its logits with smalltale's."""
    from smalltale.export.publish import export_checkpoint

    result = export_checkpoint(checkpoint, to, out)
    typer.echo(
        f"{out}: {', '.join(result.files)}; loaded again, its logits differ from smalltale's by at most "
        f"{result.difference:.1e} on random ids (bound {result.bound:g})"
    )


def push(
    checkpoint: CHECKPOINT,
    repository: Annotated[str, Argument(help="OWNER/NAME on the Hub.")],
    private: Annotated[bool, Option("--private", help="Create a private repository.")] = False,
    dry_run: Annotated[bool, Option("--dry-run", help="Print model card and files; upload nothing.")] = False,
) -> None:
    """Upload a checkpoint to the Hub, with a model card written from the run's records."""
    from smalltale.errors import SmalltaleError
    from smalltale.export.model_card import push_to_hub, write_card
    from smalltale.export.publish import export_checkpoint
    from smalltale.training.checkpoint import load_checkpoint

    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repository, re.ASCII):
        raise SmalltaleError(
            f"{repository!r} is not a repository name; give OWNER/NAME in letters, digits, -, _ and ."
        )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / repository.split("/")[1]
        export_checkpoint(checkpoint, "transformers", folder)
        write_card(checkpoint, load_checkpoint(checkpoint), folder, repository)
        if dry_run:
            typer.echo((folder / "README.md").read_text(encoding="utf-8"))
            for path in sorted(folder.iterdir()):
                typer.echo(f"{path.stat().st_size:>12,}  {path.name}")
            return
        typer.echo(push_to_hub(folder, repository, private=private))
