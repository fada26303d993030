"""`smalltale generate`: a model and prompts in, a hand-in out."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

if TYPE_CHECKING:
    from smalltale.generation.best_of_n import RankedCandidate
    from smalltale.generation.sampler import GenerationConfig


def add_to(app: typer.Typer) -> None:
    """Register `generate`."""

    @app.command("generate")
    def generate(
        checkpoint: Annotated[
            str,
            typer.Argument(help="A checkpoint folder, ours or Hugging Face's, or package.module:factory."),
        ],
        prompts: Annotated[Path, typer.Option(help="CSV, YAML, JSONL or text with prompts.")],
        out: Annotated[Path, typer.Option(help="The hand-in to write: .csv, .jsonl or .parquet.")],
        recipe: Annotated[str, typer.Option(help="A recipe's name or path.")] = "demo",
        team: Annotated[str, typer.Option(help="Your team's name.")] = "my team",
        best_of: Annotated[
            int | None, typer.Option(help="Write so many candidates a prompt, hand in the best.")
        ] = None,
        copied_from: Annotated[
            Path | None,
            typer.Option(help="Training stories (text file or corpus folder) that the best must not copy."),
        ] = None,
        seed: Annotated[int | None, typer.Option(help="Other draws.")] = None,
        device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
        set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value.")] = None,
    ) -> None:
        """Write different completions for every prompt, as a hand-in. A killed run goes on where it was."""
        wait_without_spinning()
        from smalltale.cli.stories import read_stories_from
        from smalltale.config import load_recipe
        from smalltale.errors import SmalltaleError
        from smalltale.generation.sampler import GenerationConfig
        from smalltale.prompts import read_prompts
        from smalltale.submission import check_file_extension

        check_file_extension(out)
        config = load_recipe(recipe, set_ or []).section("generation", GenerationConfig)
        if seed is not None:
            config = replace(config, seed=seed)
        if best_of is not None:
            config = replace(config, best_of=best_of)
        if copied_from is not None and config.candidates <= config.samples:
            raise SmalltaleError(
                f"--copied-from {copied_from} helps to choose among candidates, and there are no more than are handed in; "
                "add --best-of 16"
            )
        ranked: list[RankedCandidate] = []
        training = read_stories_from(copied_from) if copied_from is not None else None
        rows = generate_submission(
            checkpoint, read_prompts(prompts), out, config, team, device, ranked, training
        )
        if ranked:
            show_signals(ranked)
        Console().print(
            f"{out}: {rows} completions; submission.json beside it",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def wait_without_spinning() -> None:
    """Keep OpenMP's threads from spinning behind each short kernel; it reads this when torch is first imported.

    176 completions by a 5.8M model on two cores with other work on them: 6.4 s instead of 18.3 s (2026-11-24).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def generate_submission(
    checkpoint: str | Path,
    prompts: list[str],
    out: Path,
    config: GenerationConfig,
    team: str,
    device: str,
    ranked: list[RankedCandidate] | None = None,
    training: Iterable[str] | None = None,
) -> int:
    """Write the completions of a model and its declaration. Returns the number of rows."""
    from smalltale.generation.candidate import Journal
    from smalltale.generation.generate import generate_completions
    from smalltale.generation.language_model import open_language_model
    from smalltale.metrics.memorization import longest_copies
    from smalltale.submission import write_submission

    declaration = build_declaration(checkpoint, team, config)
    teller = open_language_model(str(checkpoint), device, config.dtype)
    settings = {
        key: value for key, value in asdict(config).items() if key not in {"rank", "batch", "best_of"}
    }
    journal = Journal(
        out.with_name(f".{out.name}.journal.jsonl"),
        [str(checkpoint), declaration.get("model_hash"), prompts, settings],
    )
    try:
        rows = generate_completions(
            teller,
            prompts,
            config,
            finished=journal.finished,
            keep=journal.keep,
            ranked=(lambda each: None) if ranked is None else ranked.append,
            copied_words=None if training is None else partial(longest_copies, stories=training),
        )
        write_submission(out, rows, declaration)
    finally:
        journal.close()
    journal.remove()
    return len(rows)


def build_declaration(checkpoint: str | Path, team: str, config: GenerationConfig) -> dict[str, Any]:
    """What submission.json says of the model; what is not known is null, for the team to fill in."""
    from smalltale.doctor import describe_machine
    from smalltale.files import read_json, sha256_file
    from smalltale.training.device import choose_device

    folder = Path(checkpoint)
    shape, meta = (
        read_json(path) if path.is_file() else {} for path in (folder / "config.json", folder / "meta.json")
    )
    weights, record = folder / "model.safetensors", folder / "meta.json"
    return {
        "team": team,
        "weight_class": shape.get("weight_class"),
        "counted_parameters": shape.get("counted_parameters"),
        "model_hash": sha256_file(weights) if weights.is_file() else None,
        "trained_from_scratch": meta.get("trained_from_scratch", False),
        "run_record_hash": sha256_file(record) if record.is_file() else None,
        "data": ((meta.get("recipe") or {}).get("corpus") or {}).get("sources", []),
        "hardware": describe_machine(choose_device()),
        "trained_on": meta.get("hardware"),
        "sampling": asdict(config),
    }


def show_signals(ranked: list[RankedCandidate]) -> None:
    """Each signal's mean over the candidates and over the chosen ones."""
    from dataclasses import fields

    from rich.table import Table

    chosen = [each for each in ranked if each.chosen]
    table = Table("signal", f"{len(ranked)} candidates", f"{len(chosen)} chosen", title="best of N")
    for each in fields(ranked[0].signals):
        values = [[getattr(one.signals, each.name) for one in group] for group in (ranked, chosen)]
        looked = None not in values[0]
        table.add_row(
            each.name, *(f"{sum(group) / len(group):.3f}" if looked else "not looked at" for group in values)
        )
    points = (sum(one.points for one in group) / len(group) for group in (ranked, chosen))
    table.add_row("points", *(f"{mean:.2f}" for mean in points))
    Console().print(table)
