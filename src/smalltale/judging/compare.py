"""Compare two judged entries on the prompts and judges that they share, by scores or by pairwise verdicts.

Input: two judgements folders. Output: a PairedComparison per measure, or a PairwiseComparison.
Note: judgements under different rubrics are never compared.
"""

from __future__ import annotations

import secrets
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
from smalltale.judging.validate import quote_prompt
from smalltale.ranking.entries import read_meta, read_rows
from smalltale.ranking.statistics import (
    Interval,
    PairedComparison,
    bradley_terry,
    clustered_interval,
    compare_paired,
    group_by_key,
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
    first_judges, second_judges = (
        {judgement.judge for judgement in judgements} for judgements in (first_judgements, second_judgements)
    )
    judges = first_judges & second_judges
    if not judges:
        raise SmalltaleError(f"{first} and {second} share no judge; judge both with the same judges")
    first_texts, second_texts = read_completions(first, second, only_shared=only_shared)
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
    adjusted = compare_length_adjusted(first_judgements, first_texts, second_judgements, second_texts)
    if adjusted is not None:
        comparisons["overall, adjusted for length"] = adjusted
    return comparisons


def group_scores_by_prompt(judgements: Sequence[Judgement], measure: str) -> dict[str, list[float]]:
    """The scores of one measure; `overall` is the panel's score of each story."""
    if measure == "overall":
        return group_by_key((story.prompt, story.score) for story in panel_scores(judgements))
    return group_by_key(
        (judgement.prompt, judgement.scores[measure])
        for judgement in judgements
        if measure in judgement.scores
    )


def compare_length_adjusted(
    first: Sequence[Judgement], first_texts: Texts, second: Sequence[Judgement], second_texts: Texts
) -> PairedComparison | None:
    """Compare overall scores after subtracting their regression on log length, fitted on both entries together."""
    first_stories, second_stories = panel_scores(first), panel_scores(second)
    lengths = [len(first_texts[story.prompt, story.sample]) for story in first_stories]
    lengths += [len(second_texts[story.prompt, story.sample]) for story in second_stories]
    stories = first_stories + second_stories
    adjusted = length_adjusted([story.score for story in stories], lengths).tolist()
    scores = [(story.prompt, score) for story, score in zip(stories, adjusted, strict=True)]
    count = len(first_stories)
    return compare_paired(group_by_key(scores[:count]), group_by_key(scores[count:]))


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
    first_texts, second_texts = read_completions(first, second, only_shared=only_shared)
    pairs = [
        CompletionPair(prompt=key[0], first=text, second=second_texts[key])
        for key, text in first_texts.items()
        if key in second_texts
    ]
    verdicts = compare_pairs(pairs, judge, rubric, config, secrets.token_hex(16), cache)
    values_by_prompt = group_by_key(
        (pair.prompt, verdict.value)
        for pair, verdict in zip(pairs, verdicts, strict=True)
        if verdict.value is not None
    )
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


def read_completions(first: Path, second: Path, *, only_shared: bool) -> tuple[Texts, Texts]:
    """The completions of two judgements folders. Raises SmalltaleError if their prompts differ, unless `only_shared`."""
    first_texts, second_texts = (
        {(row["prompt"], row["sample"]): row["completion"] for row in read_rows(folder)}
        for folder in (first, second)
    )
    first_prompts, second_prompts = (
        dict.fromkeys(prompt for prompt, _ in texts) for texts in (first_texts, second_texts)
    )
    shared = first_prompts.keys() & second_prompts.keys()
    if not shared:
        raise SmalltaleError(f"{first} and {second} share no prompt; judge both on the same prompts")
    unshared = [prompt for prompt in first_prompts | second_prompts if prompt not in shared]
    if unshared and not only_shared:
        raise SmalltaleError(
            f"{first} and {second} answer different prompts: {len(shared)} are shared, {len(unshared)} are not, for example "
            f"{quote_prompt(unshared[0])}; add --shared to compare only the shared ones"
        )
    return first_texts, second_texts


def is_qualified(folder: Path) -> bool:
    """Whether every judge of a folder has qualified."""
    return bool(read_meta(folder).get("qualified"))
