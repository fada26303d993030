"""`smalltale train` and `smalltale evaluate`: train a model on tokens, and measure its bits per byte."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from smalltale.cli.options import AsJson, DeviceName, Overrides, RecipeArgument

if TYPE_CHECKING:
    from smalltale.config import Recipe
    from smalltale.model.transformer import ModelConfig
    from smalltale.tokens.tokenizer import Tokenizer
    from smalltale.training.config import TrainingConfig
    from smalltale.training.trainer import EvaluationCallback, TrainingSummary


def add_to(app: typer.Typer) -> None:
    app.command("train")(train_command)
    app.command("evaluate")(evaluate_command)


def train_command(
    tokens: Annotated[Path, Option(help="A token folder of `smalltale tokens encode`.")],
    tokenizer: Annotated[Path, Option(help="The tokenizer folder that encoded the tokens.")],
    out: Annotated[Path, Option(help="The checkpoint folder; a stopped run in it continues.")],
    recipe: RecipeArgument = "demo",
    minutes: Annotated[float | None, Option(help="Time budget; sets the length of the schedule.")] = None,
    steps: Annotated[int | None, Option(help="Step budget instead of minutes.")] = None,
    device: Annotated[str | None, Option(help="auto, cpu, cuda or mps.")] = None,
    set_: Overrides = None,
) -> None:
    """Train a model from scratch, or continue a stopped run."""
    from smalltale.config import load_recipe

    loaded = load_recipe(recipe, budget_overrides(minutes, steps, device) + (set_ or []))
    summary = train_recipe(loaded, tokens, tokenizer, out)
    if not summary.is_main:
        return
    validation = "" if summary.bits_per_byte is None else f", {summary.bits_per_byte:.4f} bits per byte"
    typer.echo(
        f"{out}: {summary.steps:,} steps, {summary.tokens:,} tokens in {summary.seconds / 60:.1f} minutes "
        f"({summary.tokens_per_second:,.0f} tokens/s), loss {summary.final_loss:.3f}{validation}"
    )


def evaluate_command(
    checkpoint: Annotated[Path, Argument(help="A checkpoint folder.")],
    text: Annotated[Path, Option(help="Stories separated by <|endoftext|>.")],
    as_json: AsJson = False,
    device: DeviceName = "auto",
) -> None:
    """Measure the bits per byte of a checkpoint on held-out stories."""
    from smalltale.files import read_stories
    from smalltale.model.foreign import is_foreign, open_foreign_model
    from smalltale.tokens.tokenizer import Tokenizer
    from smalltale.training.checkpoint import load_checkpoint
    from smalltale.training.device import choose_device
    from smalltale.training.evaluate import evaluate

    stories = read_stories(text)
    torch_device = choose_device(device).torch_device
    if is_foreign(checkpoint):
        result = evaluate(open_foreign_model(checkpoint, torch_device), Tokenizer.load(checkpoint), stories)
    else:
        loaded = load_checkpoint(checkpoint, torch_device)
        result = evaluate(loaded.model, loaded.tokenizer, stories)
    if as_json:
        figures = {name: getattr(result, name) for name in ("bits_per_byte", "stories", "tokens", "bytes")}
        typer.echo(json.dumps(figures))
    else:
        noun = "story" if result.stories == 1 else "stories"
        size = f"{result.stories:,} {noun} ({result.bytes:,} bytes)"
        typer.echo(f"{result.bits_per_byte:.4f} bits per byte on {size}")


def budget_overrides(minutes: float | None, steps: int | None, device: str | None) -> list[str]:
    """The options as recipe overrides; a budget of the command line replaces both budgets of the recipe."""
    overrides = []
    if minutes is not None or steps is not None:
        overrides = [f"training.schedule.minutes={minutes or 0.0}", f"training.schedule.steps={steps or 0}"]
    if device is not None:
        overrides.append(f"training.device={device}")
    return overrides


def train_recipe(
    recipe: Recipe, tokens: Path, tokenizer: Path, out: Path, on_evaluation: EvaluationCallback | None = None
) -> TrainingSummary:
    """Count the recipe's model, refuse it if it is over its class's limit, then train it."""
    from smalltale.counting.budget import refuse_over_budget
    from smalltale.counting.count import count_parameters
    from smalltale.model.transformer import Transformer
    from smalltale.rules import Rules
    from smalltale.training.launch import train

    loaded, shape, config = load_run_parts(recipe, tokenizer)
    count = count_parameters(Transformer(shape))
    weight_class = Rules().weight_class(recipe.weight_class)
    refuse_over_budget(count, weight_class)
    record: dict[str, Any] = {
        "counted_parameters": count.counted,
        "weight_class": weight_class.name,
        "bos_token_id": loaded.end_id,
        "eos_token_id": loaded.end_id,
        "pad_token_id": loaded.pad_id,
    }
    return train(
        config,
        shape,
        tokens,
        loaded,
        out,
        recipe=recipe.as_dict(),
        record=record,
        on_evaluation=on_evaluation,
    )


def load_run_parts(recipe: Recipe, tokenizer: Path) -> tuple[Tokenizer, ModelConfig, TrainingConfig]:
    """Tokenizer, model shape and training config of a run; the vocabulary is the tokenizer's unless the recipe sets it."""
    from smalltale.model.transformer import ModelConfig
    from smalltale.tokens.tokenizer import Tokenizer
    from smalltale.training.config import TrainingConfig

    loaded = Tokenizer.load(tokenizer)
    shape = recipe.section("model", ModelConfig)
    if "vocabulary" not in recipe.tables.get("model", {}):
        shape = replace(shape, vocabulary=loaded.vocabulary_size)
    return loaded, shape, recipe.section("training", TrainingConfig)
