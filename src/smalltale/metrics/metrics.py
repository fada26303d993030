"""Story metrics without a judge: diversity, completeness, repetition and copying.

Input: the completions of a submission, and optionally training stories. Output: StoryMetrics.
Diversity compares words in lower case without punctuation; the length of a copied span is an upper bound (memorization.py).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import exp, log

from wordfreq import zipf_frequency

from smalltale.metrics.memorization import CopyStatistics, measure_copying
from smalltale.submission import Completion
from smalltale.text_signals import count_repeated_sentences, ends_properly, repeated_ngram_share, split_words

Ngrams = Counter[tuple[str, ...]]
COPIED_WORDS = 20
"""Length of a copied span, in words, from which a completion counts as copied."""


@dataclass(frozen=True, kw_only=True)
class CompletionMetrics:
    """The metrics of one completion."""

    words: int
    ended: bool
    """The last sentence is complete and its quotes are closed."""
    looped_sentences: int
    repeated_share: float
    """Share of four-word runs that occur earlier in the completion."""
    copied_words: int | None
    """Words of the longest span copied from the training text; None without a training text."""
    rare_share: float
    """Share of words rarer than one in a hundred thousand (wordfreq's zipf below 4)."""


@dataclass(frozen=True, kw_only=True)
class StoryMetrics:
    """The metrics of a submission; means over completions or prompts."""

    prompts: int
    completions: int
    words: float
    ended_share: float
    looped_share: float
    """Share of completions with a repeated sentence."""
    repeated_share: float
    distinct_1: float
    distinct_2: float
    distinct_3: float
    """distinct-n: different n-grams over all n-grams of the file."""
    rouge2_same_prompt: float
    """ROUGE-2 F score between completions of one prompt (arXiv 2305.07759, section 4)."""
    rouge2_in_file: float
    """Largest ROUGE-2 F score with a completion of another prompt."""
    self_bleu: float
    """BLEU-4 of each completion against the other completions of its prompt."""
    rare_share: float
    rouge2_training: float | None
    """Share of a completion's bigrams that are in its nearest training story."""
    copied_words_longest: int | None
    copied_share: float | None
    """Share of completions with a copied span of at least 20 words."""
    rows: tuple[CompletionMetrics, ...]


def compute_metrics(rows: Sequence[Completion], training: Iterable[str] | None = None) -> StoryMetrics:
    """The metrics of a submission. training: stories to check for copies."""
    texts = [split_words(row.completion) for row in rows]
    groups: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        groups[row.prompt].append(index)
    bigrams = [Counter(ngrams(words, 2)) for words in texts]
    copies = measure_copying([row.completion for row in rows], training) if training is not None else None
    copies_or_none: Sequence[CopyStatistics | None] = copies or [None] * len(rows)
    by_completion = tuple(
        measure_completion(row, words, statistics)
        for row, words, statistics in zip(rows, texts, copies_or_none, strict=True)
    )
    copied_words = [metrics.copied_words for metrics in by_completion if metrics.copied_words is not None]
    return StoryMetrics(
        prompts=len(groups),
        completions=len(rows),
        words=mean([metrics.words for metrics in by_completion]),
        ended_share=mean([metrics.ended for metrics in by_completion]),
        looped_share=mean([metrics.looped_sentences > 0 for metrics in by_completion]),
        repeated_share=mean([metrics.repeated_share for metrics in by_completion]),
        distinct_1=distinct_share(texts, 1),
        distinct_2=distinct_share(texts, 2),
        distinct_3=distinct_share(texts, 3),
        rouge2_same_prompt=mean(
            [rouge2(bigrams[a], bigrams[b]) for group in groups.values() for a, b in combinations(group, 2)]
        ),
        rouge2_in_file=mean(largest_rouge2_elsewhere(rows, bigrams)),
        self_bleu=mean(
            [
                bleu4(texts[index], [texts[reference] for reference in group if reference != index])
                for group in groups.values()
                if len(group) > 1
                for index in group
            ]
        ),
        rare_share=mean([metrics.rare_share for metrics in by_completion]),
        rouge2_training=mean([statistics.nearest for statistics in copies]) if copies is not None else None,
        copied_words_longest=max(copied_words, default=0) if copies is not None else None,
        copied_share=mean([words >= COPIED_WORDS for words in copied_words]) if copies is not None else None,
        rows=by_completion,
    )


def measure_completion(row: Completion, words: list[str], copies: CopyStatistics | None) -> CompletionMetrics:
    """The metrics of one completion; words: those of its text."""
    return CompletionMetrics(
        words=len(words),
        ended=ends_properly(row.completion),
        looped_sentences=count_repeated_sentences(row.completion),
        repeated_share=repeated_ngram_share(words),
        copied_words=copies.words if copies is not None else None,
        rare_share=mean([zipf_frequency(word, "en") < 4 for word in words]),
    )


def ngrams(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + length]) for start in range(len(words) - length + 1)]


def rouge2(left: Ngrams, right: Ngrams) -> float:
    """ROUGE-2 F score of two texts, given their bigrams."""
    total = left.total() + right.total()
    return 2 * (left & right).total() / total if total else 0.0


def largest_rouge2_elsewhere(rows: Sequence[Completion], bigrams: Sequence[Ngrams]) -> list[float]:
    """For each completion, its largest ROUGE-2 with a completion of another prompt."""
    largest = [0.0] * len(rows)
    for a, b in combinations(range(len(rows)), 2):
        if rows[a].prompt != rows[b].prompt:
            score = rouge2(bigrams[a], bigrams[b])
            largest[a], largest[b] = max(largest[a], score), max(largest[b], score)
    return largest


def distinct_share(texts: Sequence[Sequence[str]], length: int) -> float:
    """distinct-n: different n-grams over all n-grams of the texts."""
    all_ngrams = [ngram for words in texts for ngram in ngrams(words, length)]
    return len(set(all_ngrams)) / len(all_ngrams) if all_ngrams else 0.0


def bleu4(text: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """BLEU-4 with 1 added to the counts of n-grams above single words (smoothing 2 of Lin and Och, 2004)."""
    if not text or not references:
        return 0.0
    log_precision = 0.0
    for length in range(1, 5):
        text_counts = Counter(ngrams(text, length))
        reference_counts: Ngrams = Counter()
        for reference in references:
            reference_counts |= Counter(ngrams(reference, length))
        smoothing = int(length > 1)
        matches = (text_counts & reference_counts).total() + smoothing
        total = text_counts.total() + smoothing
        if matches == 0 or total == 0:
            return 0.0
        log_precision += log(matches / total) / 4
    closest = min((abs(len(reference) - len(text)), len(reference)) for reference in references)[1]
    return exp(log_precision + min(0.0, 1 - closest / len(text)))


def mean(numbers: Sequence[float]) -> float:
    """The mean; 0 of an empty sequence."""
    return float(sum(numbers) / len(numbers)) if numbers else 0.0
