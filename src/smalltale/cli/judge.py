"""`smalltale judge`: a hand-in and judges in, judgements out."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from smalltale.judging.run import JudgingSummary


def add_to(app: typer.Typer) -> None:
    """Register `judge run`."""
    judge = typer.Typer(help="Let LLM judges score a hand-in.", no_args_is_help=True)
    app.add_typer(judge, name="judge")

    @judge.callback()
    def group() -> None:
        """Keep `judge` a group."""

    @judge.command("run")
    def run(
        submission: Annotated[Path, typer.Argument(help="The hand-in.")],
        out: Annotated[Path, typer.Option(help="The judgements folder; a stopped run in it goes on.")],
        judge: Annotated[
            list[str] | None,
            typer.Option(
                help="`local`, or a model as inspect_ai names it (openai/gpt-…); may be given again."
            ),
        ] = None,
        rubric: Annotated[str, typer.Option(help="A rubric's name or path.")] = "paper",
        base_url: Annotated[str | None, typer.Option(help="An OpenAI-compatible endpoint.")] = None,
    ) -> None:
        """Judge every completion of a hand-in."""
        summary = judge_hand_in(submission, judge or ["local"], rubric, out, base_url)
        states = ", ".join(f"{count} {state}" for state, count in sorted(summary.states.items()))
        rank = "" if summary.qualified else "; a judge has not qualified, so these scores never rank"
        Console().print(f"{out}: {states}, {summary.seconds:.1f} s{rank}", highlight=False, soft_wrap=True)


def judge_hand_in(
    submission: Path, names: list[str], rubric: str, out: Path, base_url: str | None = None
) -> JudgingSummary:
    """Open the judges by name and let them judge."""
    from smalltale.judging.judge import EndpointJudge, Judge
    from smalltale.judging.local import local_judge
    from smalltale.judging.rubric import load_rubric
    from smalltale.judging.run import judge_submission
    from smalltale.submission import read_submission

    loaded = load_rubric(rubric)
    read_submission(submission)
    with contextlib.ExitStack() as stack:
        judges: list[Judge] = [
            stack.enter_context(local_judge()) if name == "local" else EndpointJudge(name, base_url=base_url)
            for name in names
        ]
        return judge_submission(submission, judges, loaded, out)
