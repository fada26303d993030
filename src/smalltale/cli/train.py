"""`smalltale train` and `smalltale evaluate`: tokens in, a checkpoint and its bits per byte out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from smalltale.config import Recipe
    from smalltale.model.transformer import ModelConfig
    from smalltale.tokens.tokenizer import Tokenizer
    from smalltale.training.config import TrainingConfig
    from smalltale.training.trainer import EvaluationCallback, TrainingSummary


def add_to(app: typer.Typer) -> None:
    """Register `train` and `evaluate`."""

    @app.command("train")
    def train_verb(
        tokens: Annotated[Path, typer.Option(help="The token folder (smalltale tokens encode).")],
        tokenizer: Annotated[Path, typer.Option(help="The tokenizer folder it was encoded with.")],
        out: Annotated[Path, typer.Option(help="The checkpoint folder; a stopped run in it goes on.")],
        recipe: Annotated[str, typer.Argument(help="A recipe's name or path.")] = "demo",
        minutes: Annotated[float | None, typer.Option(help="Time budget; the schedule follows it.")] = None,
        steps: Annotated[int | None, typer.Option(help="Step budget instead.")] = None,
        device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")] = None,
        set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value.")] = None,
    ) -> None:
        """Train a model from scratch, or go on where a run was stopped."""
        from smalltale.config import load_recipe

        loaded = load_recipe(recipe, budget_overrides(minutes, steps, device) + (set_ or []))
        summary = train_recipe(loaded, tokens, tokenizer, out)
        if not summary.is_main:
            return
        bits = f", {summary.bits_per_byte:.4f} bits per byte" if summary.bits_per_byte is not None else ""
        console = Console()
        console.print(
            f"{out}: {summary.steps:,} steps, {summary.tokens:,} tokens in {summary.seconds / 60:.1f} minutes "
            f"({summary.tokens_per_second:,.0f} tokens/s), loss {summary.final_loss:.3f}{bits}",
            highlight=False,
            soft_wrap=not console.is_terminal,
        )

    @app.command("evaluate")
    def evaluate_verb(
        checkpoint: Annotated[Path, typer.Argument(help="A checkpoint folder.")],
        text: Annotated[Path, typer.Option(help="Stories separated by <|endoftext|>.")],
        as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
        device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    ) -> None:
        """Bits per byte of a checkpoint on held-out stories."""
        from smalltale.files import read_stories
        from smalltale.model.foreign import is_foreign, open_foreign_model
        from smalltale.tokens.tokenizer import Tokenizer
        from smalltale.training.checkpoint import load_checkpoint
        from smalltale.training.device import choose_device
        from smalltale.training.evaluate import evaluate

        stories = read_stories(text)
        where = choose_device(device).torch_device
        if is_foreign(checkpoint):
            result = evaluate(open_foreign_model(checkpoint, where), Tokenizer.load(checkpoint), stories)
        else:
            loaded = load_checkpoint(checkpoint, where)
            result = evaluate(loaded.model, loaded.tokenizer, stories)
        if as_json:
            typer.echo(
                json.dumps(
                    {
                        "bits_per_byte": result.bits_per_byte,
                        "stories": result.stories,
                        "tokens": result.tokens,
                        "bytes": result.bytes,
                    }
                )
            )
        else:
            Console().print(
                f"{result.bits_per_byte:.4f} bits per byte on {result.stories:,} stories ({result.bytes:,} bytes)",
                highlight=False,
            )


def budget_overrides(minutes: float | None, steps: int | None, device: str | None) -> list[str]:
    """The options as recipe overrides; a budget given here is the only one."""
    overrides = []
    if minutes is not None or steps is not None:
        overrides = [f"training.schedule.minutes={minutes or 0.0}", f"training.schedule.steps={steps or 0}"]
    if device is not None:
        overrides.append(f"training.device={device}")
    return overrides


def train_recipe(
    recipe: Recipe, tokens: Path, tokenizer: Path, out: Path, watch: EvaluationCallback | None = None
) -> TrainingSummary:
    """Count the recipe's model, refuse it over its class's budget, then train it."""
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
        config, shape, tokens, loaded, out, recipe=recipe.as_dict(), record=record, on_evaluation=watch
    )


def load_run_parts(recipe: Recipe, tokenizer: Path) -> tuple[Tokenizer, ModelConfig, TrainingConfig]:
    """What a run is made of beside its tokens; the vocabulary is the tokenizer's where the recipe names none."""
    from smalltale.model.transformer import ModelConfig
    from smalltale.tokens.tokenizer import Tokenizer
    from smalltale.training.config import TrainingConfig

    loaded = Tokenizer.load(tokenizer)
    shape = recipe.section("model", ModelConfig)
    if "vocabulary" not in recipe.tables.get("model", {}):
        shape = replace(shape, vocabulary=loaded.vocabulary_size)
    return loaded, shape, recipe.section("training", TrainingConfig)
