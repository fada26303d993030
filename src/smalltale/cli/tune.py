"""`smalltale tune`: a recipe and ranges for its keys in, the best settings out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    import optuna

    from smalltale.experiments.tune import SearchRange, TrialRunner
    from smalltale.training.trainer import EvaluationCallback

SHOWN = 10
"""Trials in the printed table."""


def add_to(app: typer.Typer) -> None:
    """Register `tune`."""

    @app.command("tune")
    def tune_verb(
        recipe: Annotated[str, typer.Argument(help="A recipe's name or path.")],
        tokens: Annotated[Path, typer.Option(help="The token folder.")],
        tokenizer: Annotated[Path, typer.Option(help="The tokenizer folder it was encoded with.")],
        out: Annotated[Path, typer.Option(help="The folder for this machine's trials and best.toml.")],
        searched: Annotated[
            list[str], typer.Option("--search", help="section.key=log:LOW:HIGH, float:…, int:… or choice:A,B")
        ],
        trials: Annotated[
            int, typer.Option(min=1, help="Finished trials in the study, all machines together.")
        ] = 20,
        study: Annotated[
            str | None, typer.Option(help="sqlite:///FILE, postgresql://… or a journal file's path.")
        ] = None,
        name: Annotated[str, typer.Option(help="The study's name in its storage.")] = "smalltale",
        set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value, for all.")] = None,
    ) -> None:
        """Search for the best values of any recipe keys; stop it and start it again as you like."""
        from smalltale.experiments.tune import open_study, parse_range, run_trials
        from smalltale.files import translate_os_errors

        ranges = [parse_range(each) for each in searched]
        check_ranges(recipe, set_ or [], ranges)
        check_parts(recipe, set_ or [], tokens, tokenizer)
        with translate_os_errors(out):
            out.mkdir(parents=True, exist_ok=True)
        opened = open_study(name, study or str(out / "study.journal"))
        run_trials(opened, ranges, trials, trial_of(recipe, set_ or [], tokens, tokenizer, out))
        show(opened, ranges, out)


def check_ranges(recipe: str, overrides: Sequence[str], ranges: Sequence[SearchRange]) -> None:
    """Refuse a key that the recipe's model and training have not, or a bound that they do not take."""
    from smalltale.config import load_recipe
    from smalltale.errors import RecipeError
    from smalltale.experiments.tune import format_override
    from smalltale.model.transformer import ModelConfig
    from smalltale.training.config import TrainingConfig

    for each in ranges:
        section = each.key.partition(".")[0]
        if section not in ("model", "training"):
            raise RecipeError(
                f"--search {each.key}: a trial is one training run; search keys of model and training"
            )
        for value in each.bounds():
            loaded = load_recipe(recipe, [*overrides, format_override(each.key, value)])
            if section == "training":
                loaded.section(section, TrainingConfig)
            else:
                loaded.section(section, ModelConfig)


def check_parts(recipe: str, overrides: Sequence[str], tokens: Path, tokenizer: Path) -> None:
    """Refuse tokens and a tokenizer that no trial could train on."""
    from smalltale.cli.train import load_run_parts
    from smalltale.config import load_recipe
    from smalltale.tokens.shards import read_tokens
    from smalltale.training.launch import check_inputs_match

    loaded, shape, config = load_run_parts(load_recipe(recipe, overrides), tokenizer)
    check_inputs_match(shape, read_tokens(tokens), loaded, config)


def trial_of(recipe: str, overrides: Sequence[str], tokens: Path, tokenizer: Path, out: Path) -> TrialRunner:
    """What runs one trial into a folder of its own."""
    from smalltale.cli.train import train_recipe
    from smalltale.config import load_recipe

    def run(number: int, drawn: Sequence[str], watch: EvaluationCallback) -> float | None:
        loaded = load_recipe(recipe, [*overrides, *drawn])
        summary = train_recipe(loaded, tokens, tokenizer, out / f"trial-{number:05d}", watch)
        return summary.bits_per_byte

    return run


def show(study: optuna.Study, ranges: Sequence[SearchRange], out: Path) -> None:
    """Print the best trials; write the best one's overrides."""
    from smalltale.errors import SmalltaleError
    from smalltale.files import atomic_file

    finished = sorted(
        (each for each in study.get_trials(deepcopy=False) if each.value is not None),
        key=lambda each: each.value or 0.0,
    )
    if not finished:
        troubles = [each.user_attrs["trouble"] for each in study.trials if "trouble" in each.user_attrs]
        why = f"the last one: {troubles[-1]}" if troubles else "all were pruned"
        raise SmalltaleError(f"no trial of study {study.study_name} came to its end ({why}); narrow --search")
    table = Table("trial", "bits per byte", *(each.key for each in ranges))
    for trial in finished[:SHOWN]:
        cells = (trial.params.get(each.key, "") for each in ranges)
        table.add_row(
            str(trial.number),
            f"{trial.value:.4f}",
            *(f"{each:.4g}" if isinstance(each, float) else str(each) for each in cells),
        )
    Console().print(table)
    best = finished[0]
    lines = [f"# trial {best.number} of study {study.study_name}: {best.value:.4f} bits per byte"]
    lines += [f"{key} = {in_toml(value)}" for key, value in best.params.items()]
    with atomic_file(out / "best.toml") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    Console().print(
        f"{out / 'best.toml'}: the best of {len(finished)} whole trials, {len(study.trials) - len(finished)} pruned or "
        "unfinished",
        highlight=False,
        soft_wrap=True,
    )


def in_toml(value: object) -> str:
    """A drawn value as TOML; a choice is text that may be TOML already."""
    import json
    import tomllib

    if not isinstance(value, str):
        return repr(value)
    try:
        tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return json.dumps(value)
    return value
