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
    from torch import nn

    from smalltale.counting.report import CountReport


def add_to(app: typer.Typer) -> None:
    """Register `count`."""

    @app.command("count")
    def count(
        target: Annotated[
            str,
            typer.Argument(
                help="A recipe, a checkpoint or Hugging Face folder, package.module:factory; a class with --plan."
            ),
        ],
        weight_class: Annotated[
            str | None, typer.Option("--class", help="Refuse a model over this class.")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
        weights: Annotated[
            Path | None, typer.Option(help="A checkpoint file whose names and shapes must be the model's.")
        ] = None,
        verify: Annotated[
            Path | None, typer.Option(help="A hand-in (submission.json) to verify against the folder.")
        ] = None,
        frozen: Annotated[
            list[str] | None,
            typer.Option(help="With --verify: a weight accepted as frozen; may be given again."),
        ] = None,
        rules: Annotated[Path | None, typer.Option(help="With --verify: an edition's rules (TOML).")] = None,
        plan: Annotated[
            bool, typer.Option("--plan", help="Propose shapes that fill the class TARGET.")
        ] = False,
        trust_remote_code: Annotated[bool, typer.Option(help="Run the folder's own code.")] = False,
        allow_pickle: Annotated[bool, typer.Option(help="Open a pickled checkpoint, tensors only.")] = False,
        depth: Annotated[int, typer.Option(help="Declared most rounds of a loop that follows its data.")] = 1,
        set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value.")] = None,
    ) -> None:
        """Count a model; exit code 2 where it is over the class asked for, 1 where a claim does not verify."""
        from smalltale.counting.budget import refuse_over_budget
        from smalltale.counting.count import count_parameters
        from smalltale.rules import Rules

        if plan:
            show_plan(target)
            return
        if verify is not None:
            show_verdict(verify, Path(target), tuple(frozen or ()), rules, as_json)
            return
        model = model_of(target, set_ or [], trust_remote_code)
        if weights is not None:
            from smalltale.model.weights_file import check_weights

            check_weights(model, weights, allow_pickle)
        counted = count_parameters(model, depth=depth)
        if as_json:
            typer.echo(json.dumps({**asdict(counted), "rows": [row._asdict() for row in counted.rows]}))
        else:
            show(counted)
        if weight_class is not None:
            refuse_over_budget(counted, Rules().weight_class(weight_class))


def model_of(target: str, overrides: list[str], trust_remote_code: bool) -> nn.Module:
    """The model that a target names; nothing is trained, and no weight read."""
    from smalltale.config import load_recipe, recipe_names
    from smalltale.counting.load import build_model_from_factory
    from smalltale.errors import FileProblem
    from smalltale.model.architectures import build_model
    from smalltale.model.transformer import ModelConfig, Transformer
    from smalltale.model.weights_file import check_weights

    folder = Path(target)
    if folder.is_dir():
        model = build_model(folder, trust_remote_code)
        for path in sorted(folder.glob("model.safetensors")):
            check_weights(model, path)
        return model
    if target in recipe_names() or target.endswith(".toml"):
        return Transformer(load_recipe(target, overrides).section("model", ModelConfig))
    if ":" in target:
        return build_model_from_factory(target)
    raise FileProblem(
        f"{target} is neither a folder, a recipe ({', '.join(recipe_names())}) nor package.module:factory; check the path"
    )


def show_verdict(
    submission: Path, folder: Path, frozen: tuple[str, ...], rules: Path | None, as_json: bool
) -> None:
    """One verdict, one line; exit code 1 unless it is a pass."""
    from smalltale.counting.verify import verify_claim

    found = verify_claim(submission, folder, frozen, rules)
    if as_json:
        typer.echo(json.dumps(asdict(found)))
    else:
        counted = f"{found.counted:,} counted parameters" if found.counted is not None else "not counted"
        typer.echo(f"{found.verdict}: {counted}" + (f"; {'; '.join(found.reasons)}" if found.reasons else ""))
    if found.verdict != "pass":
        raise typer.Exit(1)


def show_plan(weight_class: str) -> None:
    """Shapes that fill a class."""
    from smalltale.counting.shapes import closed_form_count, propose_shapes
    from smalltale.rules import Rules

    budget = Rules().weight_class(weight_class).max_parameters
    table = Table("vocabulary", "layers", "width", "heads", "counted", "left")
    for config in propose_shapes(budget)[:12]:
        counted = closed_form_count(config)
        shape = (config.vocabulary, config.layers, config.width, config.heads)
        table.add_row(*map(str, shape), f"{counted:,}", f"{budget - counted:,}")
    Console().print(table)


def show(counted: CountReport) -> None:
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
