"""Two judged entries side by side, on the prompts and the judges they share.

In: two judgements folders. Out: a Paired comparison for the overall score and each criterion.
Beware: judgements under different rubrics are never compared.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from smalltale.errors import SmalltaleError
from smalltale.files import read_json
from smalltale.judging.cache import JudgementCache
from smalltale.judging.config import JudgingConfig
from smalltale.judging.folder import META, read_judgements, read_rows
from smalltale.judging.judge import Judge
from smalltale.judging.judgement import Judgement
from smalltale.judging.pairwise import CompletionPair, compare_pairs
from smalltale.judging.panel import panel_scores
from smalltale.judging.rubric import Rubric
from smalltale.judging.validate import require_shared_prompts
from smalltale.ranking.statistics import (
    Interval,
    PairedComparison,
    bradley_terry,
    clustered_interval,
    compare_paired,
    length_adjusted,
)

Texts = Mapping[tuple[str, int], str]
"""Completions by prompt and sample."""


def compare_folders(first: Path, second: Path, *, only_shared: bool = False) -> dict[str, PairedComparison]:
    """The comparison by measure; `only_shared` leaves out prompts that one entry lacks. Raises SmalltaleError."""
    one, two = read_judgements(first), read_judgements(second)
    hashes = {each.rubric_hash for each in (*one, *two)}
    if len(hashes) > 1:
        raise SmalltaleError(
            f"{first} and {second} were judged under different rubrics ({', '.join(sorted(hashes))}); judge both under one"
        )
    judges = {each.judge for each in one} & {each.judge for each in two}
    if not judges:
        raise SmalltaleError(f"{first} and {second} share no judge; judge both with the same ones")
    require_shared_prompts(
        first, [each.prompt for each in one], second, [each.prompt for each in two], only_shared=only_shared
    )
    one, two = ([each for each in side if each.judge in judges] for side in (one, two))
    found = {}
    for measure in ("overall", *sorted({name for each in one for name in each.scores})):
        comparison = compare_paired(
            group_scores_by_prompt(one, measure), group_scores_by_prompt(two, measure)
        )
        if comparison is not None:
            found[measure] = comparison
    if not found:
        raise SmalltaleError(
            f"{first} and {second} share no prompt with a score; judge both on the same prompts"
        )
    adjusted = compare_length_adjusted(one, read_completions(first), two, read_completions(second))
    if adjusted is not None:
        found["overall, adjusted for length"] = adjusted
    return found


def group_scores_by_prompt(judgements: Sequence[Judgement], measure: str) -> dict[str, list[float]]:
    """The scores of one measure, `overall` as the panel has it."""
    found: dict[str, list[float]] = defaultdict(list)
    if measure == "overall":
        for story in panel_scores(judgements):
            found[story.prompt].append(story.score)
        return found
    for each in judgements:
        if measure in each.scores:
            found[each.prompt].append(each.scores[measure])
    return found


def compare_length_adjusted(
    one: Sequence[Judgement], texts: Texts, two: Sequence[Judgement], others: Texts
) -> PairedComparison | None:
    """The overall comparison less what one line over log length explains in both entries together."""
    stories = [*((each, 0) for each in panel_scores(one)), *((each, 1) for each in panel_scores(two))]
    lengths = [len((texts, others)[side][story.prompt, story.sample]) for story, side in stories]
    scores = length_adjusted([story.score for story, _ in stories], lengths)
    sides: tuple[dict[str, list[float]], ...] = (defaultdict(list), defaultdict(list))
    for (story, side), score in zip(stories, scores, strict=True):
        sides[side][story.prompt].append(float(score))
    return compare_paired(*sides)


@dataclass(frozen=True, kw_only=True)
class PairwiseComparison:
    """Pairwise verdicts between two entries."""

    win_share: Interval
    """How often the first won, a tie as half, prompts resampled."""
    log_odds: float
    """Bradley–Terry: the first's log odds over the second."""
    pairs: int
    without_verdict: int
    order_dependent: int
    with_judge_directed_text: int
    """Pairs in which a story speaks to its judge; they were compared without those sentences."""
    calls: int


def compare_pairwise(
    first: Path,
    second: Path,
    judge: Judge,
    rubric: Rubric,
    config: JudgingConfig,
    *,
    only_shared: bool = False,
    cache: JudgementCache | None = None,
) -> PairwiseComparison:
    """Have a judge compare the entries' completions of each shared prompt, sample by sample, in both orders.

    What an open `journal` holds is not asked again.
    """
    one, two = read_completions(first), read_completions(second)
    require_shared_prompts(
        first, [each for each, _ in one], second, [each for each, _ in two], only_shared=only_shared
    )
    shared = [place for place in one if place in two]
    pairs = [CompletionPair(prompt=place[0], first=one[place], second=two[place]) for place in shared]
    verdicts = compare_pairs(
        pairs,
        judge,
        rubric,
        config.sampling,
        secrets.token_hex(16),
        retry_policy=config.retry_policy,
        cache=cache,
    )
    shares: dict[str, list[float]] = defaultdict(list)
    for pair, verdict in zip(pairs, verdicts, strict=True):
        if verdict.value is not None:
            shares[pair.prompt].append(verdict.value)
    share = clustered_interval(shares)
    if share is None:
        raise SmalltaleError(
            f"judge {judge.name} gave no valid verdict on {len(pairs)} pairs; choose another judge"
        )
    won = sum(map(sum, shares.values()))
    lost = sum(map(len, shares.values())) - won
    strengths = bradley_terry({("first", "second"): won, ("second", "first"): lost})
    return PairwiseComparison(
        win_share=share,
        log_odds=strengths["first"] - strengths["second"],
        pairs=len(pairs),
        without_verdict=sum(each.value is None for each in verdicts),
        order_dependent=sum(each.order_dependent for each in verdicts),
        with_judge_directed_text=sum(each.has_judge_directed_text for each in verdicts),
        calls=sum(each.calls for each in verdicts),
    )


def read_completions(folder: Path) -> Texts:
    """The completions of a judgements folder."""
    return {(row["prompt"], row["sample"]): row["completion"] for row in read_rows(folder)}


def is_qualified(folder: Path) -> bool:
    """Whether every judge of a folder has qualified."""
    return bool(read_json(folder / META).get("qualified"))
