"""`smalltale judge referee`: scores predicted from text signals. Experimental; never mixed with a judge's scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from typer import Argument, Option

if TYPE_CHECKING:
    from smalltale.judging.referee import Referee

SignalsTable = Annotated[Path, Argument(help="The table written by `smalltale measure FILE --signals`.")]
NO_PREDICTION = "no better than a guess"
"""Shown for a score that the model's name alone predicts as well."""
EXPERIMENTAL = (
    "Experimental: predicted from signals without reading the stories. It helps to steer training; it does not count for "
    "ranking."
)


def add_to(judge: typer.Typer) -> None:
    referee = typer.Typer(help="Experimental: predict scores from text signals.", no_args_is_help=True)
    judge.add_typer(referee, name="referee")
    referee.command("fit")(fit)
    referee.command("score")(score)


def fit(
    graded: Annotated[Path, Argument(help="Graded stories (JSONL) whose rows name their model.")],
    signals: SignalsTable,
    out: Annotated[Path | None, Option(help="Write the referee here if it beats the guess.")] = None,
    rubric: Annotated[str, Option(help="The rubric whose criteria the file has.")] = "paper",
) -> None:
    """Fit a referee and compare it with a guess by the model's name; exit code 2 if it is not better."""
    from smalltale.errors import SmalltaleError
    from smalltale.judging.cross_validation import fit_referee
    from smalltale.judging.gold import read_graded_stories
    from smalltale.judging.referee import read_signal_table, write_referee
    from smalltale.judging.rubric import load_rubric

    graded_stories = read_graded_stories(graded, list(load_rubric(rubric).criteria))
    referee = fit_referee(read_signal_table(signals), graded_stories, graded.name)
    show_agreement(referee)
    if not referee.beats_baseline():
        raise SmalltaleError(
            "the referee does not beat a guess by the model's name, so none is written; more graded stories or "
            "better signals may help"
        )
    if out is not None:
        write_referee(out, referee)


def show_agreement(referee: Referee) -> None:
    """Print the cross-validation next to the baseline."""
    table = Table(
        "held out", "criterion", "Spearman", "guess", "within one model", "error (points)", "guess",
        title=f"Offline referee, {referee.stories} stories of {referee.source}",
    )  # fmt: skip
    for agreement in referee.agreement:
        guess = "none" if agreement.guess_spearman is None else f"{agreement.guess_spearman:.2f}"
        table.add_row(
            agreement.held_out,
            agreement.criterion,
            f"{agreement.spearman:.2f}",
            guess,
            f"{agreement.within_model:.2f}",
            f"{agreement.error:.2f}",
            f"{agreement.guess_error:.2f}",
        )
    Console().print(table)
    typer.echo("The guess knows only which model wrote a story.")


def score(
    signals: SignalsTable,
    referee: Annotated[Path | None, Option(help="A fitted referee (default: the packaged one).")] = None,
) -> None:
    """Predict a submission's mean scores, next to the agreement of such predictions with the grader."""
    from smalltale.judging.referee import group_by_prompt, read_referee, read_signal_table
    from smalltale.ranking.statistics import clustered_interval

    fitted, signal_table = read_referee(referee), read_signal_table(signals)
    table = Table("criterion", "predicted (95 %)", "agreement, new prompts", "agreement, new models")
    for criterion, scores in fitted.predict(signal_table.signals).items():
        agreements = [
            f"Spearman {agreement.spearman:.2f}, error {agreement.error:.2f}"
            for agreement in fitted.agreements_on(criterion)
        ]
        interval = clustered_interval(group_by_prompt(signal_table, scores))
        prediction = str(interval) if fitted.beats_baseline(criterion) else NO_PREDICTION
        table.add_row(criterion, prediction, *agreements)
    Console().print(table)
    outlier_share = fitted.outlier_share(signal_table.signals)
    typer.echo(
        f"{EXPERIMENTAL}\nFitted on {fitted.stories} stories of {fitted.source}; {outlier_share:.0%} of these stories are "
        "unlike them (more than two signals outside the range)."
    )
