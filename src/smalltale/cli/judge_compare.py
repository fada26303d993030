"""`smalltale judge compare`: compare two judged entries by their scores, or pairwise with a judge."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from typer import Argument, Option

from smalltale.cli.options import Overrides, RecipeOption


def compare(
    first: Annotated[Path, Argument(help="A judgements folder.")],
    second: Annotated[Path, Argument(help="The judgements folder to compare with.")],
    judge: Annotated[
        str | None, Option(help="Ask this judge which completion of each pair is better, in both orders.")
    ] = None,
    resolution: Annotated[
        float, Option(min=0.01, help="Print how many prompts separate a score difference this large.")
    ] = 0.25,
    shared: Annotated[bool, Option("--shared", help="If the prompts differ, use those in both.")] = False,
    cache: Annotated[Path | None, Option(help="A cache of pairwise verdicts.")] = None,
    recipe: RecipeOption = "demo",
    set_: Overrides = None,
) -> None:
    """Compare two judged entries on the prompts and judges they share."""
    if judge is not None:
        show_pairwise(first, second, judge, recipe, set_ or [], cache, only_shared=shared)
        return
    from smalltale.judging.compare import compare_folders, is_qualified

    table = Table("measure", Column("difference (95 %)", no_wrap=True), "prompts", "wins", "losses", "p", "")
    comparisons = compare_folders(first, second, only_shared=shared)
    for name, comparison in comparisons.items():
        table.add_row(
            name,
            str(comparison.difference),
            str(comparison.prompts),
            str(comparison.wins),
            str(comparison.losses),
            f"{comparison.p_value:.3f}",
            "separated" if comparison.is_separated else "not separated",
        )
    Console().print(table)
    overall = comparisons.get("overall")
    if overall is not None and overall.spread:
        typer.echo(
            f"To separate entries that differ by {resolution:g} points, {overall.prompts_to_separate(resolution)} "
            f"shared prompts are needed; these share {overall.prompts}."
        )
    if not (is_qualified(first) and is_qualified(second)):
        typer.echo("These judges have not qualified: the difference does not count for ranking.")


def show_pairwise(
    first: Path,
    second: Path,
    judge: str,
    recipe: str,
    overrides: list[str],
    cache: Path | None,
    *,
    only_shared: bool,
) -> None:
    """Print the result of a judge's pairwise verdicts."""
    from smalltale.config import load_recipe
    from smalltale.judging.cache import JudgementCache
    from smalltale.judging.compare import compare_pairwise
    from smalltale.judging.config import JudgingConfig
    from smalltale.judging.registry import open_judges
    from smalltale.judging.rubric import load_rubric

    config = load_recipe(recipe, overrides).section("judging", JudgingConfig)
    rubric = load_rubric("pairwise")
    with ExitStack() as stack:
        (opened,) = stack.enter_context(open_judges([judge], concurrency=config.concurrency or None))
        verdict_cache = stack.enter_context(JudgementCache(cache)) if cache else None
        result = compare_pairwise(
            first, second, opened, rubric, config, only_shared=only_shared, cache=verdict_cache
        )
    typer.echo(
        f"{first} against {second}: win share {result.win_share} in {result.pairs} pairs (a tie counts half), "
        f"log odds {result.log_odds:+.2f}; {result.without_verdict} without a verdict, "
        f"{result.order_dependent} decided by the order, {result.with_judge_directed_text} compared without the text "
        f"that addresses the judge, {result.calls} calls"
    )
