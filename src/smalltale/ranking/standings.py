"""Standings: rank judged entries, with intervals and ties.

Input: JudgeScores per story and judge, summarised into Entries. Output: Standings, best first.
Note: only complete entries of qualified judges get a rank; the others come after them, with a note.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from smalltale.ranking.statistics import (
    assign_ranks,
    bootstrap_interval,
    exact_mean,
    group_by_key,
    paired_differences,
    weighted_mean_and_sd,
)

State = Literal["ok", "unparsable", "refused", "error"]


@dataclass(frozen=True, kw_only=True)
class JudgeScores:
    """One judge's scores of one story. `scores` is empty unless the state is ok."""

    prompt: str
    sample: int
    judge: str
    state: State = "ok"
    overall: float | None = None
    """The rubric's overall score, calibrated in a calibrated panel; None: the mean of `scores`."""
    weight: float = 1.0
    """The judge's weight in a calibrated panel."""
    scores: Mapping[str, float] = field(default_factory=dict)

    def overall_score(self) -> float | None:
        """The overall score; None without a valid answer."""
        if self.state != "ok":
            return None
        if self.overall is not None:
            return self.overall
        return sum(self.scores.values()) / len(self.scores) if self.scores else None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The summary of one judged entry."""

    name: str
    mean: float | None
    """Mean over prompts of the mean over a prompt's stories and judges; None if nothing has a score."""
    low: float | None = None
    high: float | None = None
    """The 95 % interval of `mean`, prompts resampled."""
    criteria: Mapping[str, float] = field(default_factory=dict)
    prompt_means: Mapping[str, float] = field(default_factory=dict)
    """For the paired comparison of two entries on their shared prompts."""
    judged: int = 0
    expected: int = 0
    """Judgements with a score, and their number in a complete entry."""
    disagreement: float | None = None
    """Mean over stories of the standard deviation between judges; None for one judge."""
    qualified: bool = True
    """Whether all judges are qualified (judging/qualification.py)."""
    weight_class: str = ""
    counted_parameters: int | None = None
    verified: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether all expected judgements have a score."""
        return self.judged >= self.expected > 0

    @property
    def can_rank(self) -> bool:
        """Whether this entry gets a rank."""
        return self.is_complete and self.qualified and self.mean is not None


@dataclass(frozen=True, kw_only=True)
class Standing:
    """An entry's rank; None with a `note` of the reason."""

    entry: Entry
    rank: int | None
    tied: bool
    """Whether another entry has the same rank, because their difference is within the noise."""
    note: str = ""


def summarise_entry(
    name: str, judge_scores: Iterable[JudgeScores], *, expected: int, qualified: bool = True
) -> Entry:
    """Summarise one entry's judgements. A judgement without a score counts as missing, not as zero."""
    scored = [(row, overall) for row in judge_scores if (overall := row.overall_score()) is not None]
    scores_by_story = group_by_key(
        ((row.prompt, row.sample), (overall, row.weight)) for row, overall in scored
    )
    stories_by_prompt = group_by_key(
        (prompt, weighted_mean_and_sd(scores)) for (prompt, _), scores in sorted(scores_by_story.items())
    )
    scores_by_criterion = group_by_key(pair for row, _ in scored for pair in row.scores.items())
    prompt_means = {
        prompt: exact_mean([mean for mean, _ in stories]) for prompt, stories in stories_by_prompt.items()
    }
    deviations = [sd for stories in stories_by_prompt.values() for _, sd in stories if sd is not None]
    interval = bootstrap_interval(list(prompt_means.values()))
    return Entry(
        name=name,
        mean=interval.mean if interval else None,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        criteria={criterion: float(np.mean(scores)) for criterion, scores in scores_by_criterion.items()},
        prompt_means=prompt_means,
        judged=len(scored),
        expected=expected,
        disagreement=float(np.mean(deviations)) if deviations else None,
        qualified=qualified,
    )


def is_separated(better: Entry, worse: Entry) -> bool:
    """Whether `better` is above `worse` beyond the noise.

    By the interval of the paired differences if they share at least two prompts, otherwise by disjoint intervals.
    """
    differences = paired_differences(better.prompt_means, worse.prompt_means)
    if len(differences) >= 2:
        difference = bootstrap_interval(differences)
        return difference is not None and difference.low is not None and difference.low > 0
    if better.low is None or worse.high is None:
        return False
    return better.low > worse.high


def rank(entries: Iterable[Entry]) -> list[Standing]:
    """Rank entries by mean, best first. An entry that is not separated from the best of its group shares that rank.

    Ranks are counted as in sports (1, 1, 3). Entries without a rank come last: incomplete ones, then those of unqualified
    judges.
    """
    ordered = sorted(
        entries,
        key=lambda entry: (
            not entry.can_rank,
            not entry.qualified,
            not entry.is_complete,
            float("inf") if entry.mean is None else -entry.mean,
            entry.name,
        ),
    )
    ranking = [entry for entry in ordered if entry.can_rank]
    ranks = assign_ranks(ranking, is_separated)
    return [
        Standing(entry=entry, rank=position, tied=ranks.count(position) > 1)
        for entry, position in zip(ranking, ranks, strict=True)
    ] + [
        Standing(entry=entry, rank=None, tied=False, note=explain_no_rank(entry))
        for entry in ordered[len(ranking) :]
    ]


def explain_no_rank(entry: Entry) -> str:
    """The reason for the leaderboard's note column."""
    reasons = []
    if not entry.is_complete:
        reasons.append(f"incomplete: {entry.judged} of {entry.expected} judgements")
    if not entry.qualified:
        reasons.append("judged by a judge that is not qualified to rank")
    return "; ".join(reasons)
