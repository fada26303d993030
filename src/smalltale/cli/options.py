"""Option and argument types that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

RecipeOption = Annotated[str, Option("--recipe", help="A recipe's name or path.")]
RecipeArgument = Annotated[str, Argument(help="A recipe's name or path.")]
Overrides = Annotated[
    list[str] | None, Option("--set", help="Override a recipe key with section.key=value; may be repeated.")
]
AsJson = Annotated[bool, Option("--json", help="Print one JSON object on standard output.")]
DeviceName = Annotated[str, Option("--device", help="auto, cpu, cuda or mps.")]
SubmissionFile = Annotated[Path, Argument(help="The submission: .csv, .jsonl or .parquet.")]
