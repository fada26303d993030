"""Standings: judged entries become ranks with intervals and ties.

In: one StoryScores for each judged story and judge (or an Entry made of them). Out: Standings, best first.
Beware: only whole entries of qualified judges get a rank; a half-judged or unqualified one stands below, marked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from smalltale.ranking.statistics import (
    assign_ranks,
    bootstrap_interval,
    exact_mean,
    paired_differences,
    weighted_mean_and_sd,
)

State = Literal["ok", "unparsable", "refused", "error"]


@dataclass(frozen=True, kw_only=True)
class JudgeScores:
    """What one judge said of one story. `scores` is empty unless the state is ok."""

    prompt: str
    sample: int
    judge: str
    state: State = "ok"
    overall: float | None = None
    """The rubric's overall score, calibrated where a panel is; the mean of `scores` where the rubric has none."""
    weight: float = 1.0
    """The judge's weight in a calibrated panel."""
    scores: Mapping[str, float] = field(default_factory=dict)

    def overall_score(self) -> float | None:
        """The overall score, None where the judge gave none."""
        if self.state != "ok":
            return None
        if self.overall is not None:
            return self.overall
        return sum(self.scores.values()) / len(self.scores) if self.scores else None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One judged entry, summed up. Small enough to keep beside every hand-in."""

    name: str
    mean: float | None
    """Mean over prompts of the mean over a prompt's stories and judges; None where nothing was scored."""
    low: float | None = None
    high: float | None = None
    """The interval of `mean` at 95 %, prompts resampled."""
    criteria: Mapping[str, float] = field(default_factory=dict)
    prompt_means: Mapping[str, float] = field(default_factory=dict)
    """For paired comparison on the prompts that two entries share."""
    judged: int = 0
    expected: int = 0
    """Judgements with a score, and how many a whole entry has."""
    disagreement: float | None = None
    """Mean over stories of the standard deviation between judges; None with one judge."""
    qualified: bool = True
    """Whether every judge has passed the qualification (judging/qualification.py)."""
    weight_class: str = ""
    counted_parameters: int | None = None
    verified: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether every expected judgement has a score."""
        return self.judged >= self.expected > 0

    @property
    def can_rank(self) -> bool:
        """Whether this entry may have a rank at all."""
        return self.is_complete and self.qualified and self.mean is not None


@dataclass(frozen=True, kw_only=True)
class Standing:
    """An entry's place. `rank` is None where it does not rank, and `note` says why."""

    entry: Entry
    rank: int | None
    tied: bool
    """Whether another entry has the same rank: their difference is within the noise."""
    note: str = ""


def summarise_entry(
    name: str,
    stories: Iterable[JudgeScores],
    *,
    expected: int,
    qualified: bool = True,
    weight_class: str = "",
    counted_parameters: int | None = None,
    verified: bool = False,
) -> Entry:
    """Sum up one entry's judgements. A judgement without a score counts as missing, never as zero."""
    by_prompt: dict[str, dict[int, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    by_criterion: dict[str, list[float]] = defaultdict(list)
    judged = 0
    for story in stories:
        value = story.overall_score()
        if value is None:
            continue
        judged += 1
        by_prompt[story.prompt][story.sample].append((value, story.weight))
        for criterion, score in story.scores.items():
            by_criterion[criterion].append(score)
    stories_by_prompt = {
        prompt: [weighted_mean_and_sd(scores) for scores in samples.values()]
        for prompt, samples in sorted(by_prompt.items())
    }
    prompt_means = {
        prompt: exact_mean([mean for mean, _ in stories]) for prompt, stories in stories_by_prompt.items()
    }
    spreads = [sd for stories in stories_by_prompt.values() for _, sd in stories if sd is not None]
    interval = bootstrap_interval(list(prompt_means.values()))
    return Entry(
        name=name,
        mean=interval.mean if interval else None,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        criteria={criterion: float(np.mean(values)) for criterion, values in by_criterion.items()},
        prompt_means=prompt_means,
        judged=judged,
        expected=expected,
        disagreement=float(np.mean(spreads)) if spreads else None,
        qualified=qualified,
        weight_class=weight_class,
        counted_parameters=counted_parameters,
        verified=verified,
    )


def is_separated(better: Entry, worse: Entry) -> bool:
    """Whether `better` is above `worse` beyond the noise.

    Paired on the prompts both have, where these are at least two; else by intervals that do not overlap.
    """
    differences = paired_differences(better.prompt_means, worse.prompt_means)
    if len(differences) >= 2:
        difference = bootstrap_interval(differences)
        return difference is not None and difference.low is not None and difference.low > 0
    if better.low is None or worse.high is None:
        return False
    return better.low > worse.high


def rank(entries: Iterable[Entry], apart: Callable[[Entry, Entry], bool] = is_separated) -> list[Standing]:
    """Entries in order, best mean first; those that the noise does not separate from the best of their group share its rank.

    `apart` says whether a better entry is beyond the noise above a worse one. Ranks are counted as in sports (1, 1, 3). Entries that may not rank come last: half-judged ones, then those of unqualified judges.
    """
    entries = list(entries)
    ranking = sorted(
        (each for each in entries if each.can_rank), key=lambda each: (-(each.mean or 0.0), each.name)
    )
    places = assign_ranks(ranking, apart)
    standings = [
        Standing(entry=entry, rank=place, tied=places.count(place) > 1)
        for entry, place in zip(ranking, places, strict=True)
    ]
    below = sorted(
        (each for each in entries if not each.can_rank),
        key=lambda each: (
            not each.qualified,
            not each.is_complete,
            -(each.mean or float("-inf")) if each.mean is not None else float("inf"),
            each.name,
        ),
    )
    return standings + [
        Standing(entry=entry, rank=None, tied=False, note=explain_no_rank(entry)) for entry in below
    ]


def explain_no_rank(entry: Entry) -> str:
    """One phrase for the leaderboard's note column."""
    reasons = []
    if not entry.is_complete:
        reasons.append(f"incomplete: {entry.judged} of {entry.expected} judgements")
    if not entry.qualified:
        reasons.append("judged by a judge that is not qualified to rank")
    return "; ".join(reasons)
