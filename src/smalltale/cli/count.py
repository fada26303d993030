"""`smalltale count`: the parameters of a model under the hackathon's rule, with the reason for every number."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from smalltale.model.count import ParameterCount
    from smalltale.model.transformer import Transformer


def add_to(app: typer.Typer) -> None:
    """Register `count`."""

    @app.command("count")
    def count(
        target: Annotated[str, typer.Argument(help="A checkpoint folder, or a recipe's name or path.")],
        weight_class: Annotated[
            str | None, typer.Option("--class", help="Refuse a model over this class.")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
        set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value.")] = None,
    ) -> None:
        """Count a model; exit code 2 where it is over the class asked for."""
        from smalltale.model.count import count_parameters, refuse_over_budget
        from smalltale.rules import Rules

        counted = count_parameters(model_of(target, set_ or []))
        if as_json:
            typer.echo(json.dumps({**asdict(counted), "rows": [row._asdict() for row in counted.rows]}))
        else:
            show(counted)
        if weight_class is not None:
            refuse_over_budget(counted, Rules().weight_class(weight_class))


def model_of(target: str, overrides: list[str]) -> Transformer:
    """The model that a target names; a recipe's is built, not trained."""
    from smalltale.errors import FileProblem
    from smalltale.model.folder import read_model
    from smalltale.model.transformer import ModelConfig, Transformer
    from smalltale.recipe import load_recipe, recipe_names

    folder = Path(target)
    if folder.is_dir():
        return read_model(folder)
    if target in recipe_names() or target.endswith(".toml"):
        recipe = load_recipe(target, overrides)
        return Transformer(recipe.section("model", ModelConfig))
    raise FileProblem(
        f"{target} is neither a checkpoint folder nor a recipe ({', '.join(recipe_names())}); check the path"
    )


def show(counted: ParameterCount) -> None:
    """The table."""
    console = Console()
    table = Table("weights", "shape")
    for heading in ("unique", "uses", "counted"):
        table.add_column(heading, justify="right")
    for row in counted.rows:
        table.add_row(row.name, row.shape, f"{row.unique:,}", str(row.uses), f"{row.counted:,}")
    table.add_section()
    table.add_row("together", "", f"{counted.unique:,}", "", f"{counted.counted:,}")
    console.print(table)
    for note in counted.notes:
        console.print(f"· {note}", markup=False, highlight=False, soft_wrap=True)
    fits = f"fits class {counted.weight_class}" if counted.weight_class else "fits no class"
    console.print(f"{counted.counted:,} counted parameters: {fits}", highlight=False)
