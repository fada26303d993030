"""`smalltale judge`: a hand-in in, judgements that can be trusted out, or the word that they cannot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from smalltale.cli import referee
from smalltale.cli.compare import compare

if TYPE_CHECKING:
    from smalltale.judging.config import JudgingConfig
    from smalltale.judging.cost import Estimate, Price
    from smalltale.judging.panel import Calibration
    from smalltale.judging.qualification import Report
    from smalltale.judging.rubric import Rubric
    from smalltale.judging.run import JudgingSummary
    from smalltale.submission import Completion

JudgeNames = Annotated[
    list[str], typer.Option("--judge", help="local, scripted, URL#MODEL or PROVIDER/MODEL; may be repeated.")
]
RubricName = Annotated[str, typer.Option("--rubric", help="A rubric's name or path.")]
RecipeName = Annotated[str, typer.Option("--recipe", help="A recipe's name or path.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="judging.key=value.")]


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    judge = typer.Typer(help="Have LLM judges score a hand-in.", no_args_is_help=True)
    app.add_typer(judge, name="judge")
    judge.command("run")(run)
    judge.command("qualify")(qualify)
    judge.command("compare")(compare)
    referee.add_to(judge)


def run(
    submission: Annotated[Path, typer.Argument(help="The hand-in: .csv, .jsonl or .parquet.")],
    out: Annotated[Path, typer.Option(help="The judgements folder; a stopped run in it goes on.")],
    judge: JudgeNames,
    rubric: RubricName = "paper",
    recipe: RecipeName = "demo",
    set_: Overrides = None,
    qualification: Annotated[
        list[Path] | None, typer.Option(help="A judge's qualification.json; only qualified judges rank.")
    ] = None,
    price: Annotated[
        list[str] | None, typer.Option(help="JUDGE=INPUT/OUTPUT, dollars a million tokens.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="A journal shared between runs.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="The prompts the hand-in must answer, each and no other.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print calls, tokens and cost; ask nobody.")
    ] = False,
) -> None:
    """Judge every completion of a hand-in, once by each judge."""
    from smalltale.config import load_recipe
    from smalltale.judging.config import JudgingConfig
    from smalltale.judging.cost import parse_price
    from smalltale.judging.run import JOURNAL
    from smalltale.judging.validate import read_hand_in
    from smalltale.prompts import read_prompts

    vouched = read_prompts(prompts) if prompts else None
    rows = read_hand_in(submission, vouched)
    config = load_recipe(recipe, set_ or []).section("judging", JudgingConfig)
    prices = dict(parse_price(each) for each in price or [])
    check_prices(prices, judge, budget=config.budget_dollars)
    if dry_run:
        show_estimate(rows, judge, rubric, config, prices, qualification or [], cache or out / JOURNAL)
        return
    summary = judge_submission_file(
        submission, judge, rubric, out, config, qualification or [], prices, cache, vouched
    )
    show_summary(summary, out)


def check_prices(prices: dict[str, Price], judges: Sequence[str], *, budget: float) -> None:
    """Raise SmalltaleError for the price of no judge here, and for a budget that some calls are not held against."""
    from smalltale.errors import SmalltaleError

    foreign = [name for name in prices if name not in judges]
    if foreign:
        raise SmalltaleError(
            f"--price names {foreign[0]}, which is not asked; write the judge as --judge has it: {', '.join(judges)}"
        )
    if budget and any(name not in prices for name in judges):
        raise SmalltaleError("a budget needs the price of every judge; add --price JUDGE=INPUT/OUTPUT")


def judge_submission_file(
    submission: Path,
    judges: list[str],
    rubric: str,
    out: Path,
    config: JudgingConfig | None = None,
    qualifications: Sequence[Path] = (),
    prices: dict[str, Price] | None = None,
    cache: Path | None = None,
    prompts: Sequence[str] | None = None,
) -> JudgingSummary:
    """Judge a hand-in by judges of these names."""
    from smalltale.judging.folder import META
    from smalltale.judging.registry import open_judges
    from smalltale.judging.report import write_report
    from smalltale.judging.rubric import load_rubric
    from smalltale.judging.run import judge_submission, scoring
    from smalltale.judging.validate import read_hand_in

    asked = scoring(load_rubric(rubric))
    # A broken file, hand-in or qualification, is named before any judge is started.
    read_hand_in(submission, prompts)
    known = qualifications_of(judges, qualifications, asked)
    with open_judges(judges, concurrency=(config.concurrency if config else 0) or None) as opened:
        priced = {
            each.name: (prices or {})[name]
            for name, each in zip(judges, opened, strict=True)
            if name in (prices or {})
        }
        try:
            summary = judge_submission(
                submission, opened, asked, out, config=config, calibrations=known, prices=priced, cache=cache
            )
        finally:
            if (out / "judgements.parquet").exists() and (out / META).exists():
                write_report(out)
    return summary


def qualifications_of(judges: Sequence[str], paths: Sequence[Path], rubric: Rubric) -> dict[str, Calibration]:
    """By the judge's own name, what these files say. Raises SmalltaleError for an unknown judge, a file of another."""
    from smalltale.judging.panel import calibrations_of
    from smalltale.judging.registry import identity_of

    return calibrations_of({own: (own, at) for own, at in map(identity_of, judges)}, paths, rubric)


def show_summary(summary: JudgingSummary, out: Path) -> None:
    """Print what a run came to."""
    others = ", ".join(f"{count} {state}" for state, count in summary.states.items() if state != "ok")
    cost = "" if summary.dollars is None else f", ${summary.dollars:.4f}"
    console = Console()
    console.print(
        f"{out}: {summary.judged} of {summary.expected} judgements have a score{f' ({others})' if others else ''}, "
        f"{summary.calls} calls{cost}; see {out / 'report.html'}",
        highlight=False,
        soft_wrap=True,
    )
    if summary.stopped:
        console.print(f"The run ended early: {summary.stopped}.", highlight=False, soft_wrap=True)
    if not summary.qualified:
        console.print("These scores rank nothing: not every judge has passed its qualification.")


def show_estimate(
    rows: Sequence[Completion],
    judges: list[str],
    rubric: str,
    config: JudgingConfig,
    prices: dict[str, Price],
    qualifications: Sequence[Path],
    journal: Path,
) -> None:
    """What a run would cost, nothing asked; what the journal holds costs nothing."""
    from smalltale.judging.cache import read_cached_keys
    from smalltale.judging.cost import estimate_cost
    from smalltale.judging.item import index_by_cache_key, items_from_rows
    from smalltale.judging.registry import identity_of
    from smalltale.judging.rubric import load_rubric
    from smalltale.judging.run import scoring

    asked = scoring(load_rubric(rubric))
    qualifications_of(judges, qualifications, asked)
    items, kept, estimates = items_from_rows(rows), read_cached_keys(journal), []
    for name in judges:
        keyed = index_by_cache_key(items, *identity_of(name), asked, config.sampling)
        waiting = [item for key, item in keyed.items() if key not in kept]
        estimates.append((name, estimate_cost(name, waiting, asked, prices.get(name))))
    print_estimates(estimates)
    if kept:
        Console().print(f"What {journal} holds already is not asked again.", highlight=False, soft_wrap=True)


def print_estimates(estimates: Sequence[tuple[str, Estimate]]) -> None:
    """A table of estimates, each under its name."""
    table = Table("judge", "calls", "tokens read", "tokens written", "dollars")
    for name, each in estimates:
        cost = "no price given" if each.dollars is None else f"{each.dollars:.4f}"
        figures = (f"{figure:,}" for figure in (each.calls, each.input_tokens, each.output_tokens))
        table.add_row(Text(name), *figures, cost)
    Console().print(table)


def qualify(
    judge: Annotated[str, typer.Option(help="local, scripted, URL#MODEL or PROVIDER/MODEL.")],
    out: Annotated[Path, typer.Option(help="The folder to keep answers and qualification.json in.")],
    rubric: RubricName = "paper",
    graded: Annotated[Path | None, typer.Option(help="A graded file (JSONL) to agree with.")] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Ask the rest of a judge that cannot tell the levels apart, too.")
    ] = False,
    price: Annotated[
        list[str] | None, typer.Option(help="JUDGE=INPUT/OUTPUT, dollars a million tokens.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print calls, tokens and cost; ask nobody.")
    ] = False,
    recipe: RecipeName = "demo",
    set_: Overrides = None,
) -> None:
    """Find out whether a judge is fit to rank."""
    from smalltale.config import load_recipe
    from smalltale.files import write_json
    from smalltale.judging.config import JudgingConfig
    from smalltale.judging.cost import parse_price
    from smalltale.judging.gold import read_graded_stories
    from smalltale.judging.qualification import estimate_of
    from smalltale.judging.qualification import qualify as qualify_judge
    from smalltale.judging.registry import identity_of, open_judges
    from smalltale.judging.rubric import load_rubric
    from smalltale.judging.run import scoring

    config = load_recipe(recipe, set_ or []).section("judging", JudgingConfig)
    asked = scoring(load_rubric(rubric))
    marked = read_graded_stories(graded, list(asked.criteria)) if graded else []
    prices = dict(parse_price(each) for each in price or [])
    check_prices(prices, [judge], budget=0.0)
    if dry_run:
        identity_of(judge)
        both, failing = estimate_of(judge, asked, marked, prices.get(judge))
        print_estimates([(judge, both), ("if it cannot tell the levels apart", failing)])
        return
    with open_judges([judge], concurrency=config.concurrency or None) as (opened,):
        report = qualify_judge(opened, asked, out, graded=marked, config=config, whole=whole)
    write_json(out / "qualification.json", report.as_dict())
    show_report(report)


def show_report(report: Report) -> None:
    """Print each check."""
    table = Table("check", "value", "bar", "", title=f"{report.judge}, rubric {report.rubric}")
    for each in report.checks:
        bar = "" if each.bar is None else f"{'at most' if each.at_most else 'at least'} {each.bar:g}"
        value = "none" if each.value is None else f"{each.value:.2f}"
        table.add_row(
            each.name, value, bar, "" if each.bar is None else "passed" if each.passed else "FAILED"
        )
    console = Console()
    console.print(table)
    verdict = (
        "qualified: it may rank" if report.qualified else "not qualified: it may be run, but never ranks"
    )
    console.print(f"{report.judge}: {verdict} ({report.calls} calls)", markup=False, highlight=False)
