"""`smalltale checkpoint export` and `push`: a checkpoint in, what others open out."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

CHECKPOINT = Annotated[Path, typer.Argument(help="A checkpoint folder (smalltale train).")]


def add_to(app: typer.Typer) -> None:
    """Register `checkpoint` with its verbs."""
    verbs = typer.Typer(
        help="Give a checkpoint to others: transformers, llama.cpp, the Hub.", no_args_is_help=True
    )
    app.add_typer(verbs, name="checkpoint")

    @verbs.command("export")
    def export_verb(
        checkpoint: CHECKPOINT,
        to: Annotated[str, typer.Option(help="transformers or gguf.")],
        out: Annotated[Path, typer.Option(help="A new folder.")],
    ) -> None:
        """Write a folder for transformers or llama.cpp, load it back and compare its logits with ours."""
        from smalltale.export.publish import export_checkpoint

        made = export_checkpoint(checkpoint, to, out)
        Console().print(
            f"{out}: {', '.join(made.files)}; loaded back, its logits differ from ours by at most "
            f"{made.difference:.1e} on random ids (bound {made.bound:g})",
            highlight=False,
            soft_wrap=True,
        )

    @verbs.command("push")
    def push_verb(
        checkpoint: CHECKPOINT,
        repository: Annotated[str, typer.Argument(help="OWNER/NAME on the Hub.")],
        private: Annotated[bool, typer.Option("--private", help="A repository that only you see.")] = False,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Show card and files, send nothing.")
        ] = False,
    ) -> None:
        """Put a checkpoint on the Hub, with a model card written from the run's own records."""
        from smalltale.errors import SmalltaleError
        from smalltale.export.model_card import push_to_hub, write_card
        from smalltale.export.publish import export_checkpoint
        from smalltale.training.checkpoint import load_checkpoint

        if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repository, re.ASCII):
            raise SmalltaleError(
                f"{repository!r} is not a repository's name; give OWNER/NAME in letters, digits, -, _ and ."
            )
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / repository.split("/")[1]
            export_checkpoint(checkpoint, "transformers", folder)
            write_card(checkpoint, load_checkpoint(checkpoint), folder, repository)
            if dry_run:
                typer.echo((folder / "README.md").read_text(encoding="utf-8"))
                for each in sorted(folder.iterdir()):
                    typer.echo(f"{each.stat().st_size:>12,}  {each.name}")
                return
            typer.echo(push_to_hub(folder, repository, private=private))
