"""Best of N: choose the candidates that judges would rather read.

In: the candidates of one prompt. Out: the chosen ones, best first, and every candidate's signals.
Beware: signals look at the page, not at the story; they sort out broken candidates better than they find good ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from smalltale.generation.candidate import Candidate
from smalltale.generation.sampler import RankWeights
from smalltale.signals import (
    ends_properly,
    looped_sentences,
    names,
    pronoun_share,
    quotes_closed,
    repeated_share,
    word_pairs,
    words,
)

STORY_WORDS = (40, 260)
"""Words of a completion that counts as neither cut nor endless."""
BAND = (0.2, 0.9)
"""Quantiles of the candidates' mean log-probability between which one counts as neither wild nor dull."""
COPY_WORDS = (15, 40)
"""A copied span below the first costs nothing, one from the second on all of its points."""


@dataclass(frozen=True, kw_only=True)
class Signals:
    """A candidate's signals, each between 0 and 1, 1 the best."""

    ended: float
    unlooped: float
    likelihood: float
    names: float
    pronouns: float
    dialogue: float
    uncopied: float | None
    """None where no training text was given."""
    length: float


@dataclass(frozen=True, kw_only=True)
class Ranked:
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
    show: Callable[[Ranked], None] = lambda ranked: None,
    copied: Sequence[int] | None = None,
) -> list[Candidate]:
    """The `samples` best candidates: most points first, then most points less what they share with those chosen.

    copied: for each candidate the words of its longest span that stands in the training text.
    """
    chances = [each.mean_log_probability for each in candidates]
    low, high = np.quantile(chances, BAND)
    lengths: Sequence[int | None] = copied if copied is not None else [None] * len(candidates)
    signals = [
        signals_of(prompt, each, (float(low), float(high)), length)
        for each, length in zip(candidates, lengths, strict=True)
    ]
    points = [weighted(each, weights) for each in signals]
    pairs = [word_pairs(each.text) for each in candidates]
    chosen: list[int] = []
    while len(chosen) < min(samples, len(candidates)):
        rest = [index for index in range(len(candidates)) if index not in chosen]
        chosen.append(
            max(
                rest,
                key=lambda index: (
                    points[index]
                    - weights.diversity
                    * max((shared(pairs[index], pairs[each]) for each in chosen), default=0),
                    -index,
                ),
            )
        )
    for index, candidate in enumerate(candidates):
        show(
            Ranked(candidate=candidate, signals=signals[index], points=points[index], chosen=index in chosen)
        )
    return [candidates[index] for index in chosen]


def weighted(signals: Signals, weights: RankWeights) -> float:
    """The sum of signals times weights; what was not looked at gives nothing."""
    table = asdict(weights)
    return float(sum(table[each.name] * (getattr(signals, each.name) or 0.0) for each in fields(signals)))


def signals_of(prompt: str, candidate: Candidate, band: tuple[float, float], copied: int | None) -> Signals:
    """What one candidate shows."""
    text = candidate.text
    said = words(text)
    finished = ends_properly(prompt + text)
    least, most = STORY_WORDS
    known, told = names(prompt), names(text)
    kept = 1.0 if not known or known & told else 0.0
    crowd = max(0, len(told - known) - 3)
    free, full = COPY_WORDS
    return Signals(
        ended=float(finished and candidate.ended == "story"),
        unlooped=0.0
        if candidate.ended == "loop"
        else max(0.0, 1 - looped_sentences(text) / 2 - repeated_share(said)),
        likelihood=float(band[0] <= candidate.mean_log_probability <= band[1]),
        names=max(0.0, kept - 0.25 * crowd),
        pronouns=pronouns_kept(prompt, text),
        dialogue=float(quotes_closed(prompt + text)),
        uncopied=None if copied is None else 1 - min(1.0, max(0, copied - free) / (full - free)),
        length=min(1.0, len(said) / least, most / max(1, len(said))),
    )


def pronouns_kept(prompt: str, text: str) -> float:
    """1 where he and she are as common as in the beginning, or either text has neither."""
    before, after = pronoun_share(prompt), pronoun_share(text)
    return 1.0 if before is None or after is None else 1 - abs(before - after)


def shared(left: set[tuple[str, str]], right: set[tuple[str, str]]) -> float:
    """Share of the word pairs of the smaller set that stand in the other, too."""
    return len(left & right) / max(1, min(len(left), len(right)))
