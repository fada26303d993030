"""`smalltale generate`: write a submission with a model's completions of prompts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer import Argument, Option

from smalltale.cli.options import DeviceName, Overrides, RecipeOption

if TYPE_CHECKING:
    from smalltale.generation.best_of_n import RankedCandidate
    from smalltale.generation.sampler import GenerationConfig


def add_to(app: typer.Typer) -> None:
    app.command("generate")(generate)


def generate(
    checkpoint: Annotated[
        str, Argument(help="A checkpoint folder of smalltale or Hugging Face, or package.module:factory.")
    ],
    prompts: Annotated[Path, Option(help="A prompt file: .csv, .yaml, .jsonl or .txt.")],
    out: Annotated[Path, Option(help="The submission to write: .csv, .jsonl or .parquet.")],
    recipe: RecipeOption = "demo",
    team: Annotated[str, Option(help="Your team's name.")] = "my team",
    best_of: Annotated[int | None, Option(help="Generate N candidates per prompt, keep the best.")] = None,
    copied_from: Annotated[
        Path | None, Option(help="With --best-of: prefer candidates that do not copy these training stories.")
    ] = None,
    seed: Annotated[int | None, Option(help="Random seed.")] = None,
    device: DeviceName = "auto",
    set_: Overrides = None,
) -> None:
    """Generate distinct completions for every prompt and write them as a submission; a killed run continues."""
    # OpenMP's threads spin after each short kernel unless this is set before the first import of torch.
    # 176 completions of a 5.8M model on two busy cores: 6.4 s instead of 18.3 s (2026-11-24).
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
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
            f"--copied-from {copied_from} only affects the choice among candidates, and all of them are submitted; "
            "add --best-of 16"
        )
    ranked: list[RankedCandidate] = []
    training = read_stories_from(copied_from) if copied_from is not None else None
    rows = generate_submission(checkpoint, read_prompts(prompts), out, config, team, device, ranked, training)
    if ranked:
        show_signals(ranked)
    typer.echo(f"{out}: {rows} completions; submission.json is next to it")


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
    """Write a model's completions and the declaration. Returns the number of rows; appends all candidates to `ranked`."""
    from smalltale.generation.candidate import CandidateJournal
    from smalltale.generation.generate import generate_completions
    from smalltale.generation.language_model import open_language_model
    from smalltale.metrics.memorization import longest_copies
    from smalltale.submission import write_submission

    declaration = build_declaration(checkpoint, team, config)
    model = open_language_model(str(checkpoint), device, config.dtype)
    # No candidate depends on these settings: the journal of a killed run stays valid when they change.
    ignored = {"rank", "batch", "best_of"}
    settings = {key: value for key, value in asdict(config).items() if key not in ignored}
    journal = CandidateJournal(
        out.with_name(f".{out.name}.journal.jsonl"),
        [str(checkpoint), declaration.get("model_hash"), prompts, settings],
    )
    try:
        rows = generate_completions(
            model,
            prompts,
            config,
            finished=journal.finished,
            on_candidate=journal.add,
            on_ranked=(lambda candidate: None) if ranked is None else ranked.append,
            longest_copies=None if training is None else partial(longest_copies, stories=training),
        )
        write_submission(out, rows, declaration)
    finally:
        journal.close()
    journal.remove()
    return len(rows)


def build_declaration(checkpoint: str | Path, team: str, config: GenerationConfig) -> dict[str, Any]:
    """The content of submission.json; unknown fields are null, for the team to fill in."""
    from smalltale.doctor import describe_machine
    from smalltale.files import read_json, sha256_file
    from smalltale.training.device import choose_device

    folder = Path(checkpoint)
    weights, config_path, record = (
        folder / name for name in ("model.safetensors", "config.json", "meta.json")
    )
    shape = read_json(config_path) if config_path.is_file() else {}
    meta = read_json(record) if record.is_file() else {}
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
    """Print the mean of each signal over all candidates and over the chosen ones."""
    from dataclasses import fields

    from rich.table import Table

    chosen = [candidate for candidate in ranked if candidate.chosen]
    table = Table("signal", f"{len(ranked)} candidates", f"{len(chosen)} chosen", title="best of N")
    for signal in fields(ranked[0].signals):
        columns = [[getattr(row.signals, signal.name) for row in rows] for rows in (ranked, chosen)]
        if None in columns[0]:
            table.add_row(signal.name, *("not measured" for _ in columns))
        else:
            table.add_row(signal.name, *(f"{sum(column) / len(column):.3f}" for column in columns))
    means = (sum(row.points for row in rows) / len(rows) for rows in (ranked, chosen))
    table.add_row("points", *(f"{mean:.2f}" for mean in means))
    Console().print(table)
