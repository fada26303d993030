"""`smalltale judge referee`: marks predicted from signals, experimental, never mixed with a judge's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from smalltale.judging.referee import Referee

SignalsTable = Annotated[Path, typer.Argument(help="The table of `smalltale measure FILE --signals TABLE`.")]
NOT_TOLD = "no better than a guess"
"""In place of a mark that the model's name alone predicts as well."""
EXPERIMENTAL = (
    "Experimental: predicted from signals, not read. A compass for one's own training; it ranks nobody."
)


def add_to(judge: typer.Typer) -> None:
    """Register the verbs below `smalltale judge`."""
    referee = typer.Typer(
        help="Experimental: predict marks from measured signals, offline.", no_args_is_help=True
    )
    judge.add_typer(referee, name="referee")
    referee.command("fit")(fit)
    referee.command("score")(score)


def fit(
    graded: Annotated[Path, typer.Argument(help="A graded file (JSONL) whose rows name their model.")],
    signals: SignalsTable,
    out: Annotated[Path | None, typer.Option(help="Write the referee here, if it beats the guess.")] = None,
    rubric: Annotated[str, typer.Option(help="The rubric whose criteria the file has.")] = "paper",
) -> None:
    """Fit a referee and hold it against a baseline that only guesses the model. Exit code 2 where it does not win."""
    from smalltale.errors import SmalltaleError
    from smalltale.judging.cross_validation import fit_referee
    from smalltale.judging.gold import read_graded_stories
    from smalltale.judging.referee import read_evidence, write_referee
    from smalltale.judging.rubric import load_rubric

    marked = read_graded_stories(graded, list(load_rubric(rubric).criteria))
    found = fit_referee(read_evidence(signals), marked, graded.name)
    show_agreement(found)
    if not found.beats_the_guess():
        raise SmalltaleError(
            "the referee does not beat a guess by the model's name, so none is written; more graded stories or "
            "better signals may help"
        )
    if out is not None:
        write_referee(out, found)


def show_agreement(referee: Referee) -> None:
    """The cross-validation, beside the baseline."""
    table = Table(
        "held out", "criterion", "Spearman", "guess", "within one model", "error (marks)", "guess",
        title=f"Offline referee, {referee.stories} stories of {referee.source}",
    )  # fmt: skip
    for each in referee.agreement:
        guess = "none" if each.guess_spearman is None else f"{each.guess_spearman:.2f}"
        within, error = f"{each.within_model:.2f}", f"{each.error:.2f}"
        table.add_row(
            each.held_out,
            each.criterion,
            f"{each.spearman:.2f}",
            guess,
            within,
            error,
            f"{each.guess_error:.2f}",
        )
    console = Console()
    console.print(table)
    console.print("The guess knows which model wrote a story, and nothing else.", highlight=False)


def score(
    signals: SignalsTable,
    referee: Annotated[Path | None, typer.Option(help="A fitted referee; else the shipped one.")] = None,
) -> None:
    """Predict a hand-in's mean marks, each beside how well such predictions agreed with the grader."""
    from smalltale.judging.referee import by_prompt, read_evidence, read_referee
    from smalltale.ranking.statistics import clustered_interval

    found, evidence = read_referee(referee), read_evidence(signals)
    table = Table("criterion", "predicted (95 %)", "agreement, new prompts", "agreement, new models")
    for name, marks in found.marks(evidence.values).items():
        agreed = [
            f"Spearman {each.spearman:.2f}, error {each.error:.2f}" for each in found.agreement_on(name)
        ]
        told = (
            str(clustered_interval(by_prompt(evidence, marks))) if found.beats_the_guess(name) else NOT_TOLD
        )
        table.add_row(name, told, *agreed)
    share = found.outside(evidence.values)
    console = Console()
    console.print(table)
    console.print(
        f"{EXPERIMENTAL}\nFitted on {found.stories} stories of {found.source}; {share:.0%} of these stories are unlike "
        "them (more than two signals outside their band).",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
