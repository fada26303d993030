"""Compare two judged entries on the prompts and judges that they share, by scores or by pairwise verdicts.

Input: two judgements folders. Output: a PairedComparison per measure, or a PairwiseComparison.
Note: judgements under different rubrics are never compared.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from smalltale.errors import SmalltaleError
from smalltale.judging.cache import JudgementCache
from smalltale.judging.config import JudgingConfig
from smalltale.judging.folder import read_judgements
from smalltale.judging.judge import Judge
from smalltale.judging.judgement import Judgement
from smalltale.judging.pairwise import CompletionPair, compare_pairs
from smalltale.judging.panel import panel_scores
from smalltale.judging.rubric import Rubric
from smalltale.judging.validate import require_shared_prompts
from smalltale.ranking.entries import read_meta, read_rows
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
    """The comparison by measure; `only_shared` ignores prompts that one entry lacks. Raises SmalltaleError."""
    first_judgements, second_judgements = read_judgements(first), read_judgements(second)
    hashes = {judgement.rubric_hash for judgement in (*first_judgements, *second_judgements)}
    if len(hashes) > 1:
        raise SmalltaleError(
            f"{first} and {second} were judged under different rubrics ({', '.join(sorted(hashes))}); judge both under one"
        )
    judges = {judgement.judge for judgement in first_judgements} & {
        judgement.judge for judgement in second_judgements
    }
    if not judges:
        raise SmalltaleError(f"{first} and {second} share no judge; judge both with the same judges")
    require_shared_prompts(
        first,
        [judgement.prompt for judgement in first_judgements],
        second,
        [judgement.prompt for judgement in second_judgements],
        only_shared=only_shared,
    )
    first_judgements, second_judgements = (
        [judgement for judgement in judgements if judgement.judge in judges]
        for judgements in (first_judgements, second_judgements)
    )
    criteria = sorted({name for judgement in first_judgements for name in judgement.scores})
    comparisons = {}
    for measure in ("overall", *criteria):
        comparison = compare_paired(
            group_scores_by_prompt(first_judgements, measure),
            group_scores_by_prompt(second_judgements, measure),
        )
        if comparison is not None:
            comparisons[measure] = comparison
    if not comparisons:
        raise SmalltaleError(
            f"{first} and {second} share no prompt with a score; judge both on the same prompts"
        )
    adjusted = compare_length_adjusted(
        first_judgements, read_completions(first), second_judgements, read_completions(second)
    )
    if adjusted is not None:
        comparisons["overall, adjusted for length"] = adjusted
    return comparisons


def group_scores_by_prompt(judgements: Sequence[Judgement], measure: str) -> dict[str, list[float]]:
    """The scores of one measure; `overall` is the panel's score of each story."""
    scores_by_prompt: dict[str, list[float]] = defaultdict(list)
    if measure == "overall":
        for story in panel_scores(judgements):
            scores_by_prompt[story.prompt].append(story.score)
        return scores_by_prompt
    for judgement in judgements:
        if measure in judgement.scores:
            scores_by_prompt[judgement.prompt].append(judgement.scores[measure])
    return scores_by_prompt


def compare_length_adjusted(
    first: Sequence[Judgement], first_texts: Texts, second: Sequence[Judgement], second_texts: Texts
) -> PairedComparison | None:
    """The overall comparison without what one regression on log length, over both entries, explains."""
    entries = (panel_scores(first), first_texts), (panel_scores(second), second_texts)
    stories = [(story, texts) for scores, texts in entries for story in scores]
    adjusted = length_adjusted(
        [story.score for story, _ in stories],
        [len(texts[story.prompt, story.sample]) for story, texts in stories],
    )
    sides: tuple[dict[str, list[float]], ...] = (defaultdict(list), defaultdict(list))
    for number, ((story, _), score) in enumerate(zip(stories, adjusted, strict=True)):
        sides[number >= len(entries[0][0])][story.prompt].append(float(score))
    return compare_paired(*sides)


@dataclass(frozen=True, kw_only=True)
class PairwiseComparison:
    """How a judge chose between the stories of two entries."""

    win_share: Interval
    """Share of pairs that the first entry won, ties counted as half, prompts resampled."""
    log_odds: float
    """Bradley–Terry strength of the first entry over the second."""
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

    An open `cache` saves verdicts; cached ones are not asked again. Raises SmalltaleError.
    """
    first_texts, second_texts = read_completions(first), read_completions(second)
    require_shared_prompts(
        first,
        [prompt for prompt, _ in first_texts],
        second,
        [prompt for prompt, _ in second_texts],
        only_shared=only_shared,
    )
    pairs = [
        CompletionPair(prompt=key[0], first=text, second=second_texts[key])
        for key, text in first_texts.items()
        if key in second_texts
    ]
    verdicts = compare_pairs(pairs, judge, rubric, config, secrets.token_hex(16), cache)
    values_by_prompt: dict[str, list[float]] = defaultdict(list)
    for pair, verdict in zip(pairs, verdicts, strict=True):
        if verdict.value is not None:
            values_by_prompt[pair.prompt].append(verdict.value)
    win_share = clustered_interval(values_by_prompt)
    if win_share is None:
        raise SmalltaleError(
            f"judge {judge.name} gave no valid verdict on {len(pairs)} pairs; choose another judge"
        )
    wins = sum(map(sum, values_by_prompt.values()))
    losses = sum(map(len, values_by_prompt.values())) - wins
    strengths = bradley_terry({("first", "second"): wins, ("second", "first"): losses})
    return PairwiseComparison(
        win_share=win_share,
        log_odds=strengths["first"] - strengths["second"],
        pairs=len(pairs),
        without_verdict=sum(verdict.value is None for verdict in verdicts),
        order_dependent=sum(verdict.order_dependent for verdict in verdicts),
        with_judge_directed_text=sum(verdict.has_judge_directed_text for verdict in verdicts),
        calls=sum(verdict.calls for verdict in verdicts),
    )


def read_completions(folder: Path) -> Texts:
    """The completions of a judgements folder."""
    return {(row["prompt"], row["sample"]): row["completion"] for row in read_rows(folder)}


def is_qualified(folder: Path) -> bool:
    """Whether every judge of a folder has qualified."""
    return bool(read_meta(folder).get("qualified"))
