"""Option and argument types that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Recipe = Annotated[str, typer.Option("--recipe", help="A recipe's name or path.")]
RecipeArgument = Annotated[str, typer.Argument(help="A recipe's name or path.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="section.key=value over the recipe; may be repeated.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
DeviceName = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
SubmissionFile = Annotated[Path, typer.Argument(help="The submission: .csv, .jsonl or .parquet.")]
