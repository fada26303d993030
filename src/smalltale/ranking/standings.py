"""Standings: judged entries become ranks with intervals and ties.

In: one StoryScores for each judged story and judge (or an Entry made of them). Out: Standings, best first.
Beware: only whole entries of qualified judges get a rank; a half-judged or unqualified one stands below, marked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smalltale.ranking.statistics import assign_ranks, weighted_mean_and_sd

State = Literal["ok", "unparsable", "refused", "error"]
BOOTSTRAP_DRAWS = 1_000
CONFIDENCE = 0.95


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
    seed: int = 0,
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
    heard = {
        prompt: [weighted_mean_and_sd(said) for said in samples.values()]
        for prompt, samples in sorted(by_prompt.items())
    }
    means = {prompt: float(np.mean([mean for mean, _ in told])) for prompt, told in heard.items()}
    spreads = [spread for told in heard.values() for _, spread in told if spread is not None]
    mean, low, high = interval(list(means.values()), seed=seed)
    return Entry(
        name=name,
        mean=mean,
        low=low,
        high=high,
        criteria={criterion: float(np.mean(values)) for criterion, values in by_criterion.items()},
        prompt_means=means,
        judged=judged,
        expected=expected,
        disagreement=float(np.mean(spreads)) if spreads else None,
        qualified=qualified,
        weight_class=weight_class,
        counted_parameters=counted_parameters,
        verified=verified,
    )


def interval(
    prompt_means: Sequence[float], *, seed: int = 0
) -> tuple[float | None, float | None, float | None]:
    """Mean, low and high of a bootstrap over prompts. With one prompt there is no interval: low = high = None."""
    if not prompt_means:
        return None, None, None
    values = np.asarray(prompt_means, dtype=np.float64)
    mean = float(values.mean())
    if len(values) == 1:
        return mean, None, None
    means, outside = (
        np.sort(resampling(len(values), seed) @ values),
        round(BOOTSTRAP_DRAWS * (1 - CONFIDENCE) / 2),
    )
    return mean, float(means[outside]), float(means[-outside - 1])


@lru_cache(maxsize=64)
def resampling(count: int, seed: int) -> NDArray[np.float64]:
    """(BOOTSTRAP_DRAWS, count): the weight of each prompt in each resample. Kept, because a leaderboard asks for one a team."""
    draws = np.random.default_rng(seed).integers(0, count, size=(BOOTSTRAP_DRAWS, count))
    return np.stack([np.bincount(draw, minlength=count) for draw in draws]) / count


def is_separated(better: Entry, worse: Entry, *, seed: int = 0) -> bool:
    """Whether `better` is above `worse` beyond the noise.

    Paired on the prompts both have, where these are at least two; else by intervals that do not overlap.
    """
    shared = [prompt for prompt in better.prompt_means if prompt in worse.prompt_means]
    if len(shared) >= 2:
        low = interval(
            [better.prompt_means[prompt] - worse.prompt_means[prompt] for prompt in shared], seed=seed
        )[1]
        return low is not None and low > 0
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
