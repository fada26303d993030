"""`smalltale judge`: a hand-in in, judgements that can be trusted out, or the word that they cannot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from smalltale.judging.run import JudgingConfig


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    judge = typer.Typer(help="Have LLM judges score a hand-in.", no_args_is_help=True)
    app.add_typer(judge, name="judge")
    judge.command("run")(run)


def run(
    submission: Annotated[Path, typer.Argument(help="The hand-in: .csv, .jsonl or .parquet.")],
    out: Annotated[Path, typer.Option(help="The judgements folder; a stopped run in it goes on.")],
    judge: Annotated[
        list[str], typer.Option(help="local, scripted, URL#MODEL or PROVIDER/MODEL; may be repeated.")
    ],
    rubric: Annotated[str, typer.Option(help="A rubric's name or path.")] = "paper",
    recipe: Annotated[str, typer.Option(help="A recipe's name or path.")] = "demo",
    set_: Annotated[list[str] | None, typer.Option("--set", help="judging.key=value.")] = None,
) -> None:
    """Judge every completion of a hand-in, once by each judge."""
    from smalltale.judging.run import JudgingConfig
    from smalltale.recipe import load_recipe

    config = load_recipe(recipe, set_ or []).section("judging", JudgingConfig)
    judged = judge_hand_in(submission, judge, rubric, out, config)
    Console().print(f"{out}: {judged} judgements", highlight=False, soft_wrap=True)


def judge_hand_in(
    submission: Path, judges: list[str], rubric: str, out: Path, config: JudgingConfig | None = None
) -> int:
    """Judge a hand-in by judges of these names. Returns how many judgements have a score."""
    from smalltale.judging.named import open_judges
    from smalltale.judging.rubric import load_rubric
    from smalltale.judging.run import judge_submission

    asked = load_rubric(rubric)
    with open_judges(judges) as opened:
        return judge_submission(submission, opened, asked, out, config=config).judged
