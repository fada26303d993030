"""`smalltale generate`: a checkpoint and prompts in, a hand-in out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def add_to(app: typer.Typer) -> None:
    """Register `generate`."""

    @app.command("generate")
    def generate(
        checkpoint: Annotated[Path, typer.Argument(help="A checkpoint folder.")],
        prompts: Annotated[Path, typer.Option(help="CSV, YAML, JSONL or text with prompts.")],
        out: Annotated[Path, typer.Option(help="The hand-in to write: .csv, .jsonl or .parquet.")],
        recipe: Annotated[str, typer.Option(help="A recipe's name or path.")] = "demo",
        team: Annotated[str, typer.Option(help="Your team's name.")] = "my team",
        seed: Annotated[int | None, typer.Option(help="Other draws.")] = None,
        device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
        set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value.")] = None,
    ) -> None:
        """Write different completions for every prompt, as a hand-in."""
        from smalltale.generation.sampler import GenerationConfig
        from smalltale.prompts import read_prompts
        from smalltale.recipe import load_recipe
        from smalltale.training.device import choose_device

        config = load_recipe(recipe, set_ or []).section("generation", GenerationConfig)
        if seed is not None:
            config = replace(config, seed=seed)
        rows = hand_in(checkpoint, read_prompts(prompts), out, config, team, choose_device(device).kind)
        Console().print(
            f"{out}: {rows} completions; submission.json beside it", highlight=False, soft_wrap=True
        )


def hand_in(checkpoint: Path, prompts: list[str], out: Path, config: object, team: str, device: str) -> int:
    """Write the completions of a checkpoint and its declaration. Returns the number of rows."""
    from smalltale.files import read_json, sha256_of
    from smalltale.generation.complete import complete
    from smalltale.generation.sampler import GenerationConfig
    from smalltale.submission import write_submission
    from smalltale.training.checkpoint import load_model

    assert isinstance(config, GenerationConfig)
    loaded = load_model(checkpoint, device)
    rows = complete(loaded.model, loaded.tokenizer, prompts, config)
    declared = read_json(checkpoint / "config.json")
    declaration = {
        "team": team,
        "weight_class": declared.get("weight_class"),
        "counted_parameters": declared.get("counted_parameters"),
        "model_hash": sha256_of(checkpoint / "model.safetensors"),
        "trained_from_scratch": loaded.meta.get("trained_from_scratch", False),
        "run_record_hash": sha256_of(checkpoint / "meta.json"),
        "data": (loaded.meta.get("recipe") or {}).get("corpus", {}).get("sources", []),
        "hardware": loaded.meta.get("hardware", {}),
    }
    write_submission(out, rows, declaration)
    return len(rows)
