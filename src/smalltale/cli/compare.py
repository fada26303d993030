"""`smalltale judge compare`: two judged entries side by side, by their marks or by a judge's choice between their stories."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table


def compare(
    first: Annotated[Path, typer.Argument(help="A judgements folder.")],
    second: Annotated[Path, typer.Argument(help="Another.")],
    judge: Annotated[
        str | None,
        typer.Option(help="Ask this judge which of each two completions is better, in both orders."),
    ] = None,
    resolution: Annotated[
        float, typer.Option(min=0.01, help="A difference in marks: how many prompts would separate it?")
    ] = 0.25,
    shared: Annotated[
        bool,
        typer.Option("--shared", help="Compare on the shared prompts where the entries' prompts differ."),
    ] = False,
    cache: Annotated[
        Path | None, typer.Option(help="A journal of verdicts: what it holds is not asked again.")
    ] = None,
    recipe: Annotated[str, typer.Option("--recipe", help="A recipe's name or path.")] = "demo",
    set_: Annotated[list[str] | None, typer.Option("--set", help="judging.key=value.")] = None,
) -> None:
    """Compare two judged entries on the prompts and judges they share."""
    if judge is not None:
        show_duel(first, second, judge, recipe, set_ or [], cache, only_shared=shared)
        return
    from smalltale.judging.compare import compare_folders, is_qualified

    table = Table("measure", Column("difference (95 %)", no_wrap=True), "prompts", "wins", "losses", "p", "")
    found = compare_folders(first, second, only_shared=shared)
    for name, each in found.items():
        table.add_row(
            name,
            str(each.difference),
            str(each.prompts),
            str(each.wins),
            str(each.losses),
            f"{each.p_value:.3f}",
            "separated" if each.separated else "not separated",
        )
    console = Console()
    console.print(table)
    overall = found.get("overall")
    if overall is not None and overall.spread:
        console.print(
            f"To separate two such entries that differ by {resolution:g} marks takes {overall.prompts_needed(resolution)} prompts, "
            f"in pairs; these share {overall.prompts}.",
            highlight=False,
            soft_wrap=True,
        )
    if not (is_qualified(first) and is_qualified(second)):
        console.print("These judges have not qualified: the difference ranks nothing.", highlight=False)


def show_duel(
    first: Path,
    second: Path,
    judge: str,
    recipe: str,
    overrides: list[str],
    cache: Path | None,
    *,
    only_shared: bool,
) -> None:
    """Pairwise verdicts between two entries."""
    from contextlib import ExitStack

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
        journal = stack.enter_context(JudgementCache(cache)) if cache else None
        found = compare_pairwise(
            first, second, opened, rubric, config, only_shared=only_shared, journal=journal
        )
    Console().print(
        f"{first} beat {second} in a share of {found.win_share} of {found.pairs} pairs (a tie is half), "
        f"log odds {found.log_odds:+.2f}; {found.without_verdict} without a verdict, {found.order_dependent} decided by the order, "
        f"{found.with_judge_directed_text} compared without words to the judge, {found.calls} calls",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
