"""`smalltale count`: count a model's parameters by the hackathon's rule, with the reason for each number."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from typer import Argument, Option

from smalltale.cli.options import AsJson, Overrides

if TYPE_CHECKING:
    from torch import nn

    from smalltale.counting.report import CountReport


def add_to(app: typer.Typer) -> None:
    app.command("count")(count)


def count(
    target: Annotated[
        str,
        Argument(
            help="A recipe, a checkpoint or Hugging Face folder, or package.module:factory; with --plan a weight class."
        ),
    ],
    weight_class: Annotated[str | None, Option("--class", help="Fail if over this class's limit.")] = None,
    as_json: AsJson = False,
    weights: Annotated[Path | None, Option(help="Weights file whose names and shapes must match.")] = None,
    verify: Annotated[Path | None, Option(help="A submission.json to check against folder TARGET.")] = None,
    frozen: Annotated[
        list[str] | None, Option(help="With --verify: a weight accepted as frozen; may be repeated.")
    ] = None,
    rules: Annotated[Path | None, Option(help="With --verify: an edition's rules (TOML).")] = None,
    plan: Annotated[bool, Option("--plan", help="Propose model shapes that fill class TARGET.")] = False,
    trust_remote_code: Annotated[bool, Option(help="Run the folder's own code.")] = False,
    allow_pickle: Annotated[bool, Option(help="Open a pickled checkpoint; only tensors are loaded.")] = False,
    depth: Annotated[int, Option(help="Declared maximum iterations of a data-dependent loop.")] = 1,
    set_: Overrides = None,
) -> None:
    """Count a model's parameters; exit code 2 if it is over the limit of --class, 1 if --verify fails."""
    from smalltale.counting.budget import refuse_over_budget
    from smalltale.counting.count import count_parameters
    from smalltale.rules import Rules

    if plan:
        show_plan(target)
        return
    if verify is not None:
        show_verdict(verify, Path(target), tuple(frozen or ()), rules, as_json)
        return
    model = build_target_model(target, set_ or [], trust_remote_code)
    if weights is not None:
        from smalltale.model.weights_file import check_weights

        check_weights(model, weights, allow_pickle)
    counted = count_parameters(model, depth=depth)
    if as_json:
        typer.echo(json.dumps({**asdict(counted), "rows": [row._asdict() for row in counted.rows]}))
    else:
        show_count(counted)
    if weight_class is not None:
        refuse_over_budget(counted, Rules().weight_class(weight_class))


def build_target_model(target: str, overrides: list[str], trust_remote_code: bool) -> nn.Module:
    """Build the model that `target` names; no weights are loaded."""
    from smalltale.config import load_recipe, recipe_names
    from smalltale.errors import FileProblem
    from smalltale.model.architectures import build_model
    from smalltale.model.factory import build_model_from_factory
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
        f"{target} is neither a folder, a recipe ({', '.join(recipe_names())}) nor package.module:factory; check the name"
    )


def show_verdict(
    submission: Path, folder: Path, frozen: tuple[str, ...], rules: Path | None, as_json: bool
) -> None:
    """Print the verdict on a claimed count; exit code 1 unless it is a pass."""
    from smalltale.counting.verify import verify_claim

    verification = verify_claim(submission, folder, frozen, rules)
    if as_json:
        typer.echo(json.dumps(asdict(verification)))
    else:
        count = verification.counted
        counted = "not counted" if count is None else f"{count:,} counted parameters"
        typer.echo("; ".join([f"{verification.verdict}: {counted}", *verification.reasons]))
    if verification.verdict != "pass":
        raise typer.Exit(1)


def show_plan(weight_class: str) -> None:
    """Print model shapes that fill a weight class."""
    from smalltale.counting.shapes import closed_form_count, propose_shapes
    from smalltale.rules import Rules

    budget = Rules().weight_class(weight_class).max_parameters
    table = Table("vocabulary", "layers", "width", "heads", "counted", "left")
    for config in propose_shapes(budget)[:12]:
        counted = closed_form_count(config)
        shape = (config.vocabulary, config.layers, config.width, config.heads)
        table.add_row(*map(str, shape), f"{counted:,}", f"{budget - counted:,}")
    Console().print(table)


def show_count(report: CountReport) -> None:
    """Print the count of each weight and the total."""
    table = Table("weights", "shape")
    for heading in ("unique", "uses", "counted"):
        table.add_column(heading, justify="right")
    for row in report.rows:
        table.add_row(row.name, row.shape, f"{row.unique:,}", str(row.uses), f"{row.counted:,}")
    table.add_section()
    table.add_row("total", "", f"{report.unique:,}", "", f"{report.counted:,}")
    Console().print(table)
    for note in report.notes:
        typer.echo(f"· {note}")
    fits = f"fits class {report.weight_class}" if report.weight_class else "fits no class"
    typer.echo(f"{report.counted:,} counted parameters: {fits}")
