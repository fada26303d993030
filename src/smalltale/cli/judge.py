"""`smalltale judge`: score a submission with LLM judges, and test whether a judge is good enough to rank."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer import Option

from smalltale.cli import judge_referee
from smalltale.cli.judge_compare import compare
from smalltale.cli.options import Overrides, RecipeOption, SubmissionFile

if TYPE_CHECKING:
    from smalltale.judging.config import JudgingConfig
    from smalltale.judging.cost import Estimate, Price
    from smalltale.judging.panel import Calibration
    from smalltale.judging.qualification import QualificationReport
    from smalltale.judging.rubric import Rubric
    from smalltale.judging.run import JudgingSummary
    from smalltale.submission import Completion

RubricName = Annotated[str, Option("--rubric", help="A rubric's name or path.")]
Prices = Annotated[list[str] | None, Option("--price", help="JUDGE=INPUT/OUTPUT in dollars per 1M tokens.")]
DryRun = Annotated[bool, Option("--dry-run", help="Print calls, tokens and cost; ask no judge.")]


def add_to(app: typer.Typer) -> None:
    judge = typer.Typer(help="Score submissions with LLM judges.", no_args_is_help=True)
    app.add_typer(judge, name="judge")
    judge.command("run")(run)
    judge.command("qualify")(qualify)
    judge.command("compare")(compare)
    judge_referee.add_to(judge)


def run(
    submission: SubmissionFile,
    out: Annotated[Path, Option(help="The judgements folder; a stopped run continues in it.")],
    judge: Annotated[
        list[str], Option("--judge", help="local, scripted, URL#MODEL or PROVIDER/MODEL; may be repeated.")
    ],
    rubric: RubricName = "paper",
    recipe: RecipeOption = "demo",
    set_: Overrides = None,
    qualification: Annotated[
        list[Path] | None,
        Option(help="A judge's qualification.json; scores count only if every judge has qualified."),
    ] = None,
    price: Prices = None,
    cache: Annotated[Path | None, Option(help="A cache of judgements shared between runs.")] = None,
    prompts: Annotated[Path | None, Option(help="The prompts that the submission must answer.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Judge every completion of a submission, once with each judge."""
    from smalltale.config import load_recipe
    from smalltale.judging.config import JudgingConfig
    from smalltale.judging.cost import parse_price
    from smalltale.judging.run import JOURNAL
    from smalltale.judging.validate import read_checked_submission
    from smalltale.prompts import read_prompts

    required_prompts = read_prompts(prompts) if prompts else None
    rows = read_checked_submission(submission, required_prompts)
    config = load_recipe(recipe, set_ or []).section("judging", JudgingConfig)
    prices = dict(parse_price(text) for text in price or [])
    check_prices(prices, judge, budget=config.budget_dollars)
    if dry_run:
        show_estimate(rows, judge, rubric, config, prices, qualification or [], cache or out / JOURNAL)
        return
    summary = judge_submission_file(
        submission, judge, rubric, out, config, qualification or [], prices, cache, required_prompts
    )
    show_summary(summary, out)


def check_prices(prices: dict[str, Price], judges: Sequence[str], *, budget: float) -> None:
    """Raise SmalltaleError for a price of a judge that is not used, and for a budget without the price of every judge."""
    from smalltale.errors import SmalltaleError

    unused = [name for name in prices if name not in judges]
    if unused:
        raise SmalltaleError(
            f"--price names {unused[0]}, which is not a judge of this run; write it exactly as in --judge: {', '.join(judges)}"
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
    """Judge a submission with the named judges, and write the report."""
    from smalltale.judging.folder import META
    from smalltale.judging.registry import open_judges
    from smalltale.judging.report import write_report
    from smalltale.judging.rubric import load_rubric
    from smalltale.judging.run import judge_submission, require_scoring_rubric
    from smalltale.judging.validate import read_checked_submission

    scoring_rubric = require_scoring_rubric(load_rubric(rubric))
    # An invalid submission or qualification is reported before any judge is started.
    read_checked_submission(submission, prompts)
    calibrations = read_calibrations(judges, qualifications, scoring_rubric)
    with open_judges(judges, concurrency=(config.concurrency if config else 0) or None) as opened:
        price_by_judge = {
            opened_judge.name: (prices or {})[name]
            for name, opened_judge in zip(judges, opened, strict=True)
            if name in (prices or {})
        }
        try:
            return judge_submission(
                submission,
                opened,
                scoring_rubric,
                out,
                config=config,
                calibrations=calibrations,
                prices=price_by_judge,
                cache=cache,
            )
        finally:
            if (out / "judgements.parquet").exists() and (out / META).exists():
                write_report(out)


def read_calibrations(
    judges: Sequence[str], qualifications: Sequence[Path], rubric: Rubric
) -> dict[str, Calibration]:
    """The calibrations in these files by judge. Raises SmalltaleError for an unknown judge or the file of another one."""
    from smalltale.judging.panel import match_calibrations
    from smalltale.judging.registry import judge_identity

    identities = {name: (name, endpoint) for name, endpoint in map(judge_identity, judges)}
    return match_calibrations(identities, qualifications, rubric)


def show_summary(summary: JudgingSummary, out: Path) -> None:
    """Print the result of a run."""
    unscored = ", ".join(f"{count} {state}" for state, count in summary.states.items() if state != "ok")
    cost = "" if summary.dollars is None else f", ${summary.dollars:.4f}"
    typer.echo(
        f"{out}: {summary.judged} of {summary.expected} judgements have a score{f' ({unscored})' if unscored else ''}, "
        f"{summary.calls} calls{cost}; see {out / 'report.html'}"
    )
    if summary.stopped:
        typer.echo(f"The run ended early: {summary.stopped}.")
    if not summary.qualified:
        typer.echo("These scores do not count for ranking: not every judge has qualified.")


def show_estimate(
    rows: Sequence[Completion],
    judges: list[str],
    rubric: str,
    config: JudgingConfig,
    prices: dict[str, Price],
    qualifications: Sequence[Path],
    cache: Path,
) -> None:
    """Print what a run would cost; judgements in the cache cost nothing."""
    from smalltale.judging.cache import read_cached_keys
    from smalltale.judging.cost import estimate_cost
    from smalltale.judging.item import index_by_cache_key, items_from_rows
    from smalltale.judging.registry import judge_identity
    from smalltale.judging.rubric import load_rubric
    from smalltale.judging.run import require_scoring_rubric

    scoring_rubric = require_scoring_rubric(load_rubric(rubric))
    read_calibrations(judges, qualifications, scoring_rubric)
    items, cached_keys, estimates = items_from_rows(rows), read_cached_keys(cache), []
    for name in judges:
        item_by_key = index_by_cache_key(items, *judge_identity(name), scoring_rubric, config.sampling)
        uncached = [item for key, item in item_by_key.items() if key not in cached_keys]
        estimates.append((name, estimate_cost(uncached, scoring_rubric, prices.get(name))))
    print_estimates(estimates)
    if cached_keys:
        typer.echo(f"Judgements in {cache} are not asked again.")


def print_estimates(estimates: Sequence[tuple[str, Estimate]]) -> None:
    """Print a table of named estimates."""
    table = Table("judge", "calls", "input tokens", "output tokens", "dollars")
    for name, estimate in estimates:
        cost = "no price given" if estimate.dollars is None else f"{estimate.dollars:.4f}"
        counts = (estimate.calls, estimate.input_tokens, estimate.output_tokens)
        table.add_row(Text(name), *(f"{count:,}" for count in counts), cost)
    Console().print(table)


def qualify(
    judge: Annotated[str, Option(help="local, scripted, URL#MODEL or PROVIDER/MODEL.")],
    out: Annotated[Path, Option(help="The folder for answers and qualification.json.")],
    rubric: RubricName = "paper",
    graded: Annotated[Path | None, Option(help="Graded stories (JSONL) to compare the judge with.")] = None,
    all_checks: Annotated[
        bool, Option("--all-checks", "--whole", help="Run all checks even after failing the first.")
    ] = False,
    price: Prices = None,
    dry_run: DryRun = False,
    recipe: RecipeOption = "demo",
    set_: Overrides = None,
) -> None:
    """Test whether a judge is good enough to rank."""
    from smalltale.config import load_recipe
    from smalltale.files import write_json
    from smalltale.judging.config import JudgingConfig
    from smalltale.judging.cost import parse_price
    from smalltale.judging.gold import read_graded_stories
    from smalltale.judging.qualification import estimate_qualification
    from smalltale.judging.qualification import qualify as qualify_judge
    from smalltale.judging.registry import judge_identity, open_judges
    from smalltale.judging.rubric import load_rubric
    from smalltale.judging.run import require_scoring_rubric

    config = load_recipe(recipe, set_ or []).section("judging", JudgingConfig)
    scoring_rubric = require_scoring_rubric(load_rubric(rubric))
    graded_stories = read_graded_stories(graded, list(scoring_rubric.criteria)) if graded else []
    prices = dict(parse_price(text) for text in price or [])
    check_prices(prices, [judge], budget=0.0)
    if dry_run:
        judge_identity(judge)
        passing, failing = estimate_qualification(scoring_rubric, graded_stories, prices.get(judge))
        print_estimates([(judge, passing), ("if it fails the first check", failing)])
        return
    with open_judges([judge], concurrency=config.concurrency or None) as (opened,):
        report = qualify_judge(
            opened, scoring_rubric, out, graded=graded_stories, config=config, all_checks=all_checks
        )
    write_json(out / "qualification.json", report.as_dict())
    show_report(report)


def show_report(report: QualificationReport) -> None:
    """Print the checks and the verdict."""
    table = Table("check", "value", "bar", "", title=f"{report.judge}, rubric {report.rubric}")
    for check in report.checks:
        value = "none" if check.value is None else f"{check.value:.2f}"
        if check.bar is None:
            table.add_row(check.name, value, "", "")
        else:
            bar = f"{'at most' if check.at_most else 'at least'} {check.bar:g}"
            table.add_row(check.name, value, bar, "passed" if check.passed else "FAILED")
    Console().print(table)
    verdict = "qualified" if report.qualified else "not qualified: its scores do not count for ranking"
    typer.echo(f"{report.judge}: {verdict} ({report.calls} calls)")
