"""Best of N: choose the candidates of a prompt that judges are likely to prefer.

Input: the candidates of one prompt. Output: the chosen ones, best first, and the signals of every candidate.
Signals measure form, not content; they are better at rejecting broken candidates than at finding good ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from smalltale.generation.candidate import Candidate
from smalltale.generation.sampler import RankWeights
from smalltale.text_signals import (
    count_repeated_sentences,
    ends_properly,
    find_names,
    has_closed_quotes,
    pronoun_share,
    repeated_ngram_share,
    split_words,
    word_bigrams,
)

STORY_WORDS = (40, 260)
"""Least and most words of a completion with the full length signal."""
LIKELIHOOD_QUANTILES = (0.2, 0.9)
"""Quantiles of the candidates' mean log-probability; a candidate between them is neither wild nor dull."""
COPY_WORDS = (15, 40)
"""Words of the longest copied span up to which the signal is 1, and from which it is 0."""
FREE_NEW_NAMES = 3
"""Names that a completion may add to the prompt's without a penalty."""


@dataclass(frozen=True, kw_only=True)
class Signals:
    """A candidate's signals by the keys of RankWeights; each is between 0 and 1, where 1 is best."""

    ended: float
    unlooped: float
    likelihood: float
    names: float
    pronouns: float
    dialogue: float
    uncopied: float | None
    """None without a training text."""
    length: float


@dataclass(frozen=True, kw_only=True)
class RankedCandidate:
    """A candidate with its signals."""

    candidate: Candidate
    signals: Signals
    points: float
    """Weighted sum of the signals."""
    chosen: bool


def choose_best(
    prompt: str,
    candidates: Sequence[Candidate],
    samples: int,
    weights: RankWeights,
    on_ranked: Callable[[RankedCandidate], None] = lambda ranked: None,
    copied_words: Sequence[int] | None = None,
) -> list[Candidate]:
    """The `samples` best candidates, chosen greedily: points minus the overlap with the candidates already chosen.

    copied_words: for each candidate, the words of its longest span copied from the training text.
    """
    likelihoods = [candidate.mean_log_probability for candidate in candidates]
    low, high = map(float, np.quantile(likelihoods, LIKELIHOOD_QUANTILES))
    copies: Sequence[int | None] = copied_words if copied_words is not None else [None] * len(candidates)
    signals = [
        measure_signals(prompt, candidate, (low, high), copied)
        for candidate, copied in zip(candidates, copies, strict=True)
    ]
    points = [weighted_sum(candidate_signals, weights) for candidate_signals in signals]
    bigrams = [word_bigrams(candidate.text) for candidate in candidates]
    chosen: list[int] = []

    def marginal_points(index: int) -> float:
        largest_overlap = max((overlap(bigrams[index], bigrams[earlier]) for earlier in chosen), default=0)
        return points[index] - weights.diversity * largest_overlap

    while len(chosen) < min(samples, len(candidates)):
        remaining = [index for index in range(len(candidates)) if index not in chosen]
        chosen.append(max(remaining, key=lambda index: (marginal_points(index), -index)))
    for index, candidate in enumerate(candidates):
        on_ranked(
            RankedCandidate(
                candidate=candidate, signals=signals[index], points=points[index], chosen=index in chosen
            )
        )
    return [candidates[index] for index in chosen]


def weighted_sum(signals: Signals, weights: RankWeights) -> float:
    """The sum of signals times weights; a signal that was not measured counts as 0."""
    points = (getattr(weights, name) * (signal or 0.0) for name, signal in asdict(signals).items())
    return float(sum(points))


def measure_signals(
    prompt: str, candidate: Candidate, likelihood_range: tuple[float, float], copied_words: int | None
) -> Signals:
    """The signals of one candidate."""
    text = candidate.text
    words = split_words(text)
    min_words, max_words = STORY_WORDS
    prompt_names, story_names = find_names(prompt), find_names(text)
    keeps_a_name = not prompt_names or bool(prompt_names & story_names)
    excess_names = max(0, len(story_names - prompt_names) - FREE_NEW_NAMES)
    no_penalty, full_penalty = COPY_WORDS
    unlooped = max(0.0, 1 - count_repeated_sentences(text) / 2 - repeated_ngram_share(words))
    uncopied = None
    if copied_words is not None:
        uncopied = 1 - min(1.0, max(0, copied_words - no_penalty) / (full_penalty - no_penalty))
    return Signals(
        ended=float(ends_properly(prompt + text) and candidate.ended == "story"),
        unlooped=0.0 if candidate.ended == "loop" else unlooped,
        likelihood=float(likelihood_range[0] <= candidate.mean_log_probability <= likelihood_range[1]),
        names=max(0.0, float(keeps_a_name) - 0.25 * excess_names),
        pronouns=pronoun_consistency(prompt, text),
        dialogue=float(has_closed_quotes(prompt + text)),
        uncopied=uncopied,
        length=min(1.0, len(words) / min_words, max_words / max(1, len(words))),
    )


def pronoun_consistency(prompt: str, text: str) -> float:
    """1 minus the difference between the shares of she in both texts; 1 if either has neither he nor she."""
    in_prompt, in_text = pronoun_share(prompt), pronoun_share(text)
    return 1.0 if in_prompt is None or in_text is None else 1 - abs(in_prompt - in_text)


def overlap(left: set[tuple[str, str]], right: set[tuple[str, str]]) -> float:
    """Overlap coefficient: common bigrams over the size of the smaller set."""
    return len(left & right) / max(1, min(len(left), len(right)))
