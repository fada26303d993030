"""`smalltale tune`: search for the best values of recipe keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from typer import Option

from smalltale.cli.options import Overrides, RecipeArgument

if TYPE_CHECKING:
    import optuna

    from smalltale.experiments.tune import SearchRange, TrialRunner
    from smalltale.training.trainer import EvaluationCallback

SHOWN_TRIALS = 10
"""Trials in the printed table."""


def add_to(app: typer.Typer) -> None:
    app.command("tune")(tune)


def tune(
    recipe: RecipeArgument,
    tokens: Annotated[Path, Option(help="A token folder of `smalltale tokens encode`.")],
    tokenizer: Annotated[Path, Option(help="The tokenizer folder that encoded the tokens.")],
    out: Annotated[Path, Option(help="The folder for this machine's trials and best.toml.")],
    searched: Annotated[list[str], Option("--search", help="KEY=log:LOW:HIGH, float:…, int:… or choice:A,B")],
    trials: Annotated[int, Option(min=1, help="Trials of the study, over all machines.")] = 20,
    study: Annotated[str | None, Option(help="sqlite:///FILE, postgresql://… or a journal's path.")] = None,
    name: Annotated[str, Option(help="The study's name in its storage.")] = "smalltale",
    set_: Overrides = None,
) -> None:
    """Search for the best values of recipe keys; can be stopped and started again at any time."""
    from smalltale.experiments.tune import open_study, parse_range, run_trials
    from smalltale.files import translate_os_errors

    ranges = [parse_range(text) for text in searched]
    check_ranges(recipe, set_ or [], ranges)
    check_inputs(recipe, set_ or [], tokens, tokenizer)
    with translate_os_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    opened_study = open_study(name, study or str(out / "study.journal"))
    run_trials(opened_study, ranges, trials, trial_runner(recipe, set_ or [], tokens, tokenizer, out))
    show_best(opened_study, ranges, out)


def check_ranges(recipe: str, overrides: Sequence[str], ranges: Sequence[SearchRange]) -> None:
    """Raise RecipeError for a key that is not in [model] or [training], or a bound that is not a valid value."""
    from smalltale.config import load_recipe
    from smalltale.errors import RecipeError
    from smalltale.experiments.tune import format_override
    from smalltale.model.transformer import ModelConfig
    from smalltale.training.config import TrainingConfig

    for search_range in ranges:
        section = search_range.key.partition(".")[0]
        if section not in ("model", "training"):
            raise RecipeError(
                f"--search {search_range.key}: only keys of model and training can be searched; leave out this one"
            )
        for value in search_range.bounds():
            loaded = load_recipe(recipe, [*overrides, format_override(search_range.key, value)])
            if section == "training":
                loaded.section(section, TrainingConfig)
            else:
                loaded.section(section, ModelConfig)


def check_inputs(recipe: str, overrides: Sequence[str], tokens: Path, tokenizer: Path) -> None:
    """Raise if no trial could train on these tokens with this tokenizer."""
    from smalltale.cli.train import load_run_parts
    from smalltale.config import load_recipe
    from smalltale.tokens.token_folder import read_tokens
    from smalltale.training.launch import check_inputs_match

    loaded, shape, config = load_run_parts(load_recipe(recipe, overrides), tokenizer)
    check_inputs_match(shape, read_tokens(tokens), loaded, config)


def trial_runner(
    recipe: str, overrides: Sequence[str], tokens: Path, tokenizer: Path, out: Path
) -> TrialRunner:
    """A function that runs one trial in a folder of its own."""
    from smalltale.cli.train import train_recipe
    from smalltale.config import load_recipe

    def run(number: int, trial_overrides: Sequence[str], on_evaluation: EvaluationCallback) -> float | None:
        loaded = load_recipe(recipe, [*overrides, *trial_overrides])
        folder = out / f"trial-{number:05d}"
        return train_recipe(loaded, tokens, tokenizer, folder, on_evaluation).bits_per_byte

    return run


def show_best(study: optuna.Study, ranges: Sequence[SearchRange], out: Path) -> None:
    """Print the best trials, and write the overrides of the best one to best.toml."""
    from smalltale.errors import SmalltaleError
    from smalltale.files import atomic_file

    finished = sorted(
        (trial for trial in study.get_trials(deepcopy=False) if trial.value is not None),
        key=lambda trial: trial.value or 0.0,
    )
    if not finished:
        errors = [trial.user_attrs["trouble"] for trial in study.trials if "trouble" in trial.user_attrs]
        reason = f"the last one: {errors[-1]}" if errors else "all were pruned"
        raise SmalltaleError(f"no trial of study {study.study_name} finished ({reason}); narrow --search")
    table = Table("trial", "bits per byte", *(search_range.key for search_range in ranges))
    for trial in finished[:SHOWN_TRIALS]:
        values = (trial.params.get(search_range.key, "") for search_range in ranges)
        cells = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)
        table.add_row(str(trial.number), f"{trial.value:.4f}", *cells)
    Console().print(table)
    best = finished[0]
    lines = [f"# trial {best.number} of study {study.study_name}: {best.value:.4f} bits per byte"]
    lines += [f"{key} = {in_toml(value)}" for key, value in best.params.items()]
    with atomic_file(out / "best.toml") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    typer.echo(
        f"{out / 'best.toml'}: the best of {len(finished)} finished trials; "
        f"{len(study.trials) - len(finished)} pruned or unfinished"
    )


def in_toml(value: object) -> str:
    """A parameter's value as TOML; the text of a choice may be TOML already."""
    import json
    import tomllib

    if not isinstance(value, str):
        return repr(value)
    try:
        tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return json.dumps(value)
    return value
