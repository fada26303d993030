"""Statistics of judgements: means with intervals, paired comparison, Bradley–Terry, ranks with ties.

Input: scores by prompt. Output: Interval, PairedComparison, strengths, ranks.
Pitfall: completions of one prompt are not independent, so every bootstrap resamples whole prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

BOOTSTRAP_DRAWS = 2_000
CONFIDENCE = 0.95
MAX_BRADLEY_TERRY_ROUNDS = 1_000
Floats = NDArray[np.float64]
MAX_CACHED_PROMPTS = 1_000
"""A matrix of resampling weights takes 16 kB per prompt; larger ones are not cached."""
K = TypeVar("K")
T = TypeVar("T")


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % confidence interval; low and high are None for a single prompt."""

    mean: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        interval = "" if self.low is None else f" ({self.low:.2f} to {self.high:.2f})"
        return f"{self.mean:.2f}{interval}"

    def bounds(self) -> tuple[float, float]:
        """Low and high; the mean twice for a single prompt."""
        return (self.mean, self.mean) if self.low is None or self.high is None else (self.low, self.high)


def bootstrap_interval(prompt_means: Sequence[float], *, seed: int = 0) -> Interval | None:
    """The mean of one value per prompt and its percentile bootstrap interval. None without a value.

    The only bootstrap of the package: the report, the leaderboard and the server show its figures. The order of the
    prompts does not change the result: `math.fsum` is exact, and the values are sorted before resampling.
    """
    if not prompt_means:
        return None
    mean = exact_mean(prompt_means)
    if len(prompt_means) == 1:
        return Interval(mean, None, None)
    count = len(prompt_means)
    compute_weights = resampling_weights if count <= MAX_CACHED_PROMPTS else resampling_weights.__wrapped__
    # einsum instead of @: on a machine with busy cores BLAS waits for its threads, and 300 prompts take 4 ms instead of 1.3.
    means = np.sort(np.einsum("ij,j->i", compute_weights(count, seed), np.sort(prompt_means)))
    # np.quantile's linear interpolation without its 0.1 ms of overhead: a leaderboard of 500 teams has 1,000 intervals.
    tail = (1 - CONFIDENCE) / 2 * (BOOTSTRAP_DRAWS - 1)
    low, high = np.interp([tail, BOOTSTRAP_DRAWS - 1 - tail], np.arange(BOOTSTRAP_DRAWS), means)
    return Interval(mean, float(low), float(high))


@lru_cache(maxsize=8)
def resampling_weights(count: int, seed: int) -> Floats:
    """(BOOTSTRAP_DRAWS, count): the share of each prompt in each resample.

    Cached because the entries of a leaderboard have the same number of prompts: with 40 prompts the matrix takes 7 ms, and
    500 entries then take 0.15 s instead of 4 s (2 cores, November 2026). Eight matrices take at most 128 MB.
    """
    draws = np.random.default_rng(seed).integers(0, count, size=(BOOTSTRAP_DRAWS, count))
    return np.stack([np.bincount(draw, minlength=count) for draw in draws]) / count


def clustered_interval(scores_by_prompt: Mapping[str, Sequence[float]], *, seed: int = 0) -> Interval | None:
    """The mean over prompts of each prompt's mean score, prompts resampled. None without a score."""
    return bootstrap_interval(
        [exact_mean(scores) for scores in scores_by_prompt.values() if len(scores)], seed=seed
    )


def group_by_key(pairs: Iterable[tuple[K, T]]) -> dict[K, list[T]]:
    """The values of each key, in order."""
    groups: dict[K, list[T]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def exact_mean(values: Sequence[float]) -> float:
    """The mean, summed without rounding, so that it does not depend on the order of the values."""
    return math.fsum(values) / len(values)


def weighted_mean_and_sd(scores_and_weights: Sequence[tuple[float, float]]) -> tuple[float, float | None]:
    """The weighted mean of one story's scores by several judges, and the scores' standard deviation.

    Weights that are all 0 count as equal. The deviation of a single score is None.
    """
    scores = [score for score, _ in scores_and_weights]
    total_weight = math.fsum(weight for _, weight in scores_and_weights)
    if total_weight:
        mean = math.fsum(score * weight for score, weight in scores_and_weights) / total_weight
    else:
        mean = exact_mean(scores)
    return mean, float(np.std(scores)) if len(scores) > 1 else None


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """The first entry minus the second, on the prompts that both have."""

    difference: Interval
    prompts: int
    wins: int
    losses: int
    p_value: float
    """Two-sided, from a permutation test that flips the signs of the prompts' differences."""
    spread: float
    """Standard deviation of the prompts' differences; 0 with one prompt."""

    @property
    def is_separated(self) -> bool:
        """Whether the interval excludes 0."""
        low, high = self.difference.low, self.difference.high
        return low is not None and high is not None and (low > 0 or high < 0)

    def prompts_to_separate(self, resolution: float) -> int:
        """Number of prompts that separate two such entries that differ by `resolution` points, compared in pairs."""
        return prompts_for_power(self.spread**2, resolution)


def paired_differences(first_means: Mapping[str, float], second_means: Mapping[str, float]) -> list[float]:
    """First minus second on each prompt that both have.

    Rounded to 9 decimals: equal scores minus a regression line may differ in their last bit, and would count as a win.
    """
    differences = [
        mean - second_means[prompt] for prompt, mean in first_means.items() if prompt in second_means
    ]
    # Not round(): it takes longer than the bootstrap, and a leaderboard of 500 teams has 1,000 comparisons.
    rounded: list[float] = np.round(differences, 9).tolist()
    return rounded


def compare_paired(
    first: Mapping[str, Sequence[float]], second: Mapping[str, Sequence[float]], *, seed: int = 0
) -> PairedComparison | None:
    """Compare two entries' scores prompt by prompt. None where they share no prompt."""
    first_means, second_means = (
        {prompt: exact_mean(scores) for prompt, scores in scores_by_prompt.items() if len(scores)}
        for scores_by_prompt in (first, second)
    )
    differences = np.sort(paired_differences(first_means, second_means))
    difference = bootstrap_interval(differences.tolist(), seed=seed)
    if difference is None:
        return None
    signs = np.random.default_rng(seed + 1).choice([-1.0, 1.0], size=(BOOTSTRAP_DRAWS, len(differences)))
    is_extreme = np.abs((signs * differences).mean(axis=1)) >= abs(differences.mean()) - 1e-12
    return PairedComparison(
        difference=difference,
        prompts=len(differences),
        wins=int((differences > 0).sum()),
        losses=int((differences < 0).sum()),
        p_value=float((is_extreme.sum() + 1) / (BOOTSTRAP_DRAWS + 1)),
        spread=float(np.std(differences, ddof=1)) if len(differences) > 1 else 0.0,
    )


def bradley_terry(wins: Mapping[tuple[str, str], float]) -> dict[str, float]:
    """Strengths (natural log, mean 0) from `wins[a, b]`: how often a beat b, a tie counting half for each.

    Half a win is added on both sides of each pair that met, so that an entry without a loss has a finite strength.
    """
    names = sorted({name for pair in wins for name in pair})
    index = {name: number for number, name in enumerate(names)}
    won = np.zeros((len(names), len(names)))
    for (better, worse), count in wins.items():
        won[index[better], index[worse]] += count
    met = (won + won.T) > 0
    won = np.where(met, won + 0.5, 0.0)
    games = won + won.T
    strength = np.ones(len(names))
    for _ in range(MAX_BRADLEY_TERRY_ROUNDS):
        against = games / (strength[:, None] + strength[None, :])
        new = won.sum(axis=1) / np.maximum(against.sum(axis=1), 1e-12)
        new /= math.exp(float(np.mean(np.log(new))))
        if np.max(np.abs(np.log(new / strength))) < 1e-10:
            break
        strength = new
    return {name: float(np.log(strength[number])) for name, number in index.items()}


def assign_ranks(best_first: Sequence[T], is_separated: Callable[[T, T], bool]) -> list[int]:
    """Ranks as in sports (1, 1, 3): an entry that is not separated from the best of its group shares its rank."""
    ranks: list[int] = []
    leader = 0
    for position, entry in enumerate(best_first):
        if position and is_separated(best_first[leader], entry):
            leader = position
        ranks.append(leader + 1)
    return ranks


def spearman(first: Sequence[float] | Floats, second: Sequence[float] | Floats) -> float | None:
    """Rank correlation with mean ranks for ties. None if either side is constant."""
    return pearson(mean_ranks(first), mean_ranks(second))


def pearson(first: Sequence[float] | Floats, second: Sequence[float] | Floats) -> float | None:
    """Correlation; None if either side is constant or has fewer than 3 values."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def mean_ranks(values: Sequence[float] | Floats) -> Floats:
    """Ranks from 1; equal values get their mean rank."""
    _, inverse, counts = np.unique(
        np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True
    )
    ends = np.cumsum(counts)
    middle: Floats = ends - (counts - 1) / 2
    ranks: Floats = middle[inverse]
    return ranks


def quadratic_kappa(first: Sequence[float], second: Sequence[float], low: int, high: int) -> float | None:
    """Quadratically weighted kappa of two graders' scores: agreement beyond chance. None if it is undefined."""
    a = np.clip(np.rint(first), low, high).astype(int) - low
    b = np.clip(np.rint(second), low, high).astype(int) - low
    size = high - low + 1
    observed = np.zeros((size, size))
    np.add.at(observed, (a, b), 1)
    weight = (np.arange(size)[:, None] - np.arange(size)[None, :]) ** 2
    chance = np.outer(observed.sum(axis=1), observed.sum(axis=0)) / max(1, len(a))
    expected = float((weight * chance).sum())
    return None if expected == 0 else 1 - float((weight * observed).sum()) / expected


def auc(better: Sequence[float], worse: Sequence[float]) -> float | None:
    """Probability that one of `better` scores above one of `worse`, ties as half. None if a side is empty."""
    if not len(better) or not len(worse):
        return None
    a, b = np.asarray(better)[:, None], np.asarray(worse)[None, :]
    return float((a > b).mean() + 0.5 * (a == b).mean())


def length_adjusted(scores: Sequence[float], lengths: Sequence[int]) -> Floats:
    """Scores minus their linear regression on log length; the mean is unchanged."""
    values, logs = np.asarray(scores, dtype=np.float64), np.log(np.maximum(1, np.asarray(lengths)))
    centred = logs - logs.mean()
    spread = float((centred**2).sum())
    slope = float((centred * values).sum()) / spread if spread else 0.0
    adjusted: Floats = values - slope * centred
    return adjusted


def prompts_to_separate(by_prompt: Mapping[str, Sequence[float]], resolution: float) -> int | None:
    """Number of prompts that separate two such entries that differ by `resolution` points, unpaired.

    It assumes this entry's variance between prompts; a paired comparison needs fewer. None with fewer than 2 prompts.
    """
    means = [float(np.mean(scores)) for scores in by_prompt.values() if len(scores)]
    return prompts_for_power(2 * float(np.var(means, ddof=1)), resolution) if len(means) > 1 else None


def prompts_for_power(variance: float, resolution: float) -> int:
    """Number of prompts that separate a mean of `resolution` from 0 at 95 % confidence and 80 % power."""
    return max(2, math.ceil(((1.960 + 0.842) / resolution) ** 2 * variance))
