"""Story metrics without a judge: how different, how whole, how much copied.

In: a hand-in's rows, and optionally training stories. Out: a Measures of plain numbers.
Beware: diversity figures compare words in lower case without punctuation; a copied span is an upper bound (copies.py).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import exp, log

from wordfreq import zipf_frequency

from smalltale.metrics.memorization import Copied, find_copies
from smalltale.signals import ends_properly, looped_sentences, repeated_share, words
from smalltale.submission import Completion

COPIED_WORDS = 20
"""Words of a span from which a completion counts as copying."""


@dataclass(frozen=True, kw_only=True)
class RowMeasures:
    """One completion's figures."""

    words: int
    ended: bool
    """The last sentence is finished and its quotes are closed."""
    looped_sentences: int
    repeated_share: float
    """Share of four-word runs that stood earlier in the completion."""
    copied_words: int | None
    """Words of the longest span that stands in the training text; None where none was given."""
    rare_share: float
    """Share of words rarer than one in a hundred thousand (wordfreq's zipf below 4)."""


@dataclass(frozen=True, kw_only=True)
class Measures:
    """A hand-in's figures; means over completions or prompts."""

    prompts: int
    completions: int
    words: float
    ended_share: float
    looped_share: float
    """Completions with a repeated sentence."""
    repeated_share: float
    distinct_1: float
    distinct_2: float
    distinct_3: float
    """Different word runs over all word runs of the file."""
    rouge2_same_prompt: float
    """F score of shared word pairs between completions of one prompt (arXiv 2305.07759, section 4)."""
    rouge2_in_file: float
    """Largest such score with a completion of another prompt."""
    self_bleu: float
    """BLEU-4 of each completion against the others of its prompt."""
    rare_share: float
    rouge2_training: float | None
    """Share of a completion's word pairs that stand together in the most similar training story."""
    copied_words_longest: int | None
    copied_share: float | None
    """Completions with a copied span of at least 20 words."""
    rows: tuple[RowMeasures, ...]


def measure(rows: Sequence[Completion], training: Iterable[str] | None = None) -> Measures:
    """The figures of a hand-in; training: the stories that it may have been copied from."""
    said = [words(row.completion) for row in rows]
    groups: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        groups[row.prompt].append(number)
    pairs = [Counter(runs(each, 2)) for each in said]
    found = find_copies([row.completion for row in rows], training) if training is not None else None
    copies: Sequence[Copied | None] = found if found is not None else [None] * len(rows)
    each_row = tuple(row_measures(*each) for each in zip(rows, said, copies, strict=True))
    same = [rouge2(pairs[a], pairs[b]) for group in groups.values() for a, b in combinations(group, 2)]
    copied = [row.copied_words for row in each_row if row.copied_words is not None]
    return Measures(
        prompts=len(groups),
        completions=len(rows),
        words=mean([row.words for row in each_row]),
        ended_share=mean([row.ended for row in each_row]),
        looped_share=mean([row.looped_sentences > 0 for row in each_row]),
        repeated_share=mean([row.repeated_share for row in each_row]),
        distinct_1=distinct(said, 1),
        distinct_2=distinct(said, 2),
        distinct_3=distinct(said, 3),
        rouge2_same_prompt=mean(same),
        rouge2_in_file=mean(nearest_elsewhere(rows, pairs)),
        self_bleu=mean(
            [
                bleu(said[one], [said[other] for other in group if other != one])
                for group in groups.values()
                if len(group) > 1
                for one in group
            ]
        ),
        rare_share=mean([row.rare_share for row in each_row]),
        rouge2_training=mean([each.nearest for each in found]) if found is not None else None,
        copied_words_longest=max(copied, default=0) if found is not None else None,
        copied_share=mean([each >= COPIED_WORDS for each in copied]) if found is not None else None,
        rows=each_row,
    )


def row_measures(row: Completion, said: list[str], copied: Copied | None) -> RowMeasures:
    """One completion's figures."""
    return RowMeasures(
        words=len(said),
        ended=ends_properly(row.completion),
        looped_sentences=looped_sentences(row.completion),
        repeated_share=repeated_share(said),
        copied_words=copied.words if copied is not None else None,
        rare_share=mean([zipf_frequency(word, "en") < 4 for word in said]),
    )


def runs(said: Sequence[str], length: int) -> list[tuple[str, ...]]:
    """The word runs of that length."""
    return [tuple(said[place : place + length]) for place in range(len(said) - length + 1)]


def rouge2(left: Counter[tuple[str, ...]], right: Counter[tuple[str, ...]]) -> float:
    """F score of the word pairs two texts share."""
    total = left.total() + right.total()
    return 2 * (left & right).total() / total if total else 0.0


def nearest_elsewhere(rows: Sequence[Completion], pairs: Sequence[Counter[tuple[str, ...]]]) -> list[float]:
    """For each completion, its largest ROUGE-2 with one of another prompt."""
    best = [0.0] * len(rows)
    for one, other in combinations(range(len(rows)), 2):
        if rows[one].prompt != rows[other].prompt:
            score = rouge2(pairs[one], pairs[other])
            best[one], best[other] = max(best[one], score), max(best[other], score)
    return best


def distinct(said: Sequence[Sequence[str]], length: int) -> float:
    """Different word runs over all of them."""
    found = [run for each in said for run in runs(each, length)]
    return len(set(found)) / len(found) if found else 0.0


def bleu(text: Sequence[str], others: Sequence[Sequence[str]]) -> float:
    """BLEU-4 with one added to the counts above single words (smoothing 2 of Lin and Och, 2004)."""
    if not text or not others:
        return 0.0
    logs = 0.0
    for length in range(1, 5):
        mine = Counter(runs(text, length))
        most: Counter[tuple[str, ...]] = Counter()
        for other in others:
            most |= Counter(runs(other, length))
        hit, all_, more = (mine & most).total(), mine.total(), int(length > 1)
        if hit + more == 0 or all_ + more == 0:
            return 0.0
        logs += log((hit + more) / (all_ + more)) / 4
    closest = min((abs(len(other) - len(text)), len(other)) for other in others)[1]
    return exp(logs + min(0.0, 1 - closest / len(text)))


def mean(values: Sequence[float]) -> float:
    """The mean, 0 of nothing."""
    return float(sum(values) / len(values)) if values else 0.0
