"""Memorized training text: the longest span that a completion copies from the training stories, and its nearest story.

Input: completions, and training stories as a stream. Output: CopyStatistics per completion.
A span is detected by its eight-word n-grams, so n-grams of different stories that happen to overlap count as one span: the
length is an upper bound. Memory grows with the completions, not with the training text, which is read once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from smalltale.text_signals import split_words

log = logging.getLogger(__name__)

NGRAM_WORDS = 8
BATCH_STORIES = 500
PROGRESS_SECONDS = 0.3
UNKNOWN = 0
"""The word id of every word that is in no completion, and of the gap between two stories."""


@dataclass(frozen=True, kw_only=True)
class CopyStatistics:
    """What one completion has in common with the training stories."""

    words: int
    """Words of the longest copied span."""
    nearest: float
    """Share of its word bigrams in the training story that shares most of them."""


def measure_copying(texts: Sequence[str], stories: Iterable[str]) -> list[CopyStatistics]:
    """What each text has in common with the stories."""
    texts_as_ids, vocabulary = assign_word_ids(texts)
    spans = SpanIndex(texts_as_ids, len(vocabulary) + 1)
    bigrams = BigramIndex(texts_as_ids, len(vocabulary) + 1)
    for word_ids, story_ids in batch_stories(stories, vocabulary):
        spans.add_stories(word_ids)
        bigrams.add_stories(word_ids, story_ids)
    return [
        CopyStatistics(words=length, nearest=share)
        for length, share in zip(spans.longest_spans(), bigrams.largest_shares(), strict=True)
    ]


def longest_copies(texts: Sequence[str], stories: Iterable[str]) -> list[int]:
    """Words of each text's longest copied span."""
    texts_as_ids, vocabulary = assign_word_ids(texts)
    spans = SpanIndex(texts_as_ids, len(vocabulary) + 1)
    for word_ids, _ in batch_stories(stories, vocabulary):
        spans.add_stories(word_ids)
    return spans.longest_spans()


def assign_word_ids(texts: Sequence[str]) -> tuple[list[NDArray[np.int64]], dict[str, int]]:
    """Each text as word ids, and the id of each word, from 1."""
    vocabulary: dict[str, int] = {}
    texts_as_ids = [
        np.array([vocabulary.setdefault(word, len(vocabulary) + 1) for word in split_words(text)], np.int64)
        for text in texts
    ]
    return texts_as_ids, vocabulary


def batch_stories(
    stories: Iterable[str], vocabulary: dict[str, int]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Batches of stories: their word ids, concatenated with a gap after each story, and the story's index of each id."""
    remaining, done, logged = iter(stories), 0, time.monotonic()
    while batch := list(islice(remaining, BATCH_STORIES)):
        batch_words = [split_words(story) for story in batch]
        word_ids = [[*(vocabulary.get(word, UNKNOWN) for word in words), UNKNOWN] for words in batch_words]
        story_ids = np.repeat(np.arange(len(batch)), [len(story) for story in word_ids])
        yield np.array(list(chain.from_iterable(word_ids)), np.int64), story_ids
        done += len(batch)
        if time.monotonic() - logged > PROGRESS_SECONDS:
            logged = time.monotonic()
            log.info("looking for copies", extra={"done": done, "total": None, "unit": "stories"})


class SpanIndex:
    """The hashed n-grams of texts, and which of them occur in the stories added so far."""

    def __init__(self, texts_as_ids: Sequence[NDArray[np.int64]], vocabulary_size: int) -> None:
        self.word_hashes = np.random.default_rng(0).integers(2**64, size=vocabulary_size, dtype=np.uint64)
        self.text_hashes = [self.hash_ngrams(word_ids) for word_ids in texts_as_ids]
        self.hashes = np.unique(np.concatenate([*self.text_hashes, np.zeros(1, np.uint64)]))
        self.is_copied = np.zeros(len(self.hashes), dtype=bool)

    def hash_ngrams(self, word_ids: NDArray[np.int64]) -> NDArray[np.uint64]:
        """A 64-bit polynomial hash per n-gram: (words - 7,)."""
        word_hashes = self.word_hashes[word_ids]
        count = max(0, len(word_hashes) - NGRAM_WORDS + 1)
        hashes = np.zeros(count, np.uint64)
        for offset in range(NGRAM_WORDS):
            hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + word_hashes[offset : offset + count]
        return hashes

    def add_stories(self, word_ids: NDArray[np.int64]) -> None:
        """Mark the n-grams that occur in a batch of stories."""
        story_hashes = self.hash_ngrams(word_ids)
        indices = np.searchsorted(self.hashes, story_hashes).clip(max=len(self.hashes) - 1)
        self.is_copied[indices[self.hashes[indices] == story_hashes]] = True

    def longest_spans(self) -> list[int]:
        """Words of each text's longest span of consecutive copied n-grams."""
        lengths = []
        for text_hashes in self.text_hashes:
            longest = length = 0
            for is_copied in self.is_copied[np.searchsorted(self.hashes, text_hashes)].tolist():
                length = length + 1 if is_copied else 0
                longest = max(longest, length)
            lengths.append(longest + NGRAM_WORDS - 1 if longest else 0)
        return lengths


class BigramIndex:
    """The word bigrams of texts, and how many of them the nearest story added so far shares."""

    def __init__(self, texts_as_ids: Sequence[NDArray[np.int64]], vocabulary_size: int) -> None:
        self.vocabulary_size = vocabulary_size
        text_codes = [np.unique(self.encode_bigrams(word_ids)) for word_ids in texts_as_ids]
        self.counts = np.array([len(codes) for codes in text_codes], np.int64)
        self.most_shared = np.zeros(len(text_codes), np.int64)
        all_codes = np.concatenate([*text_codes, np.zeros(0, np.int64)])
        order = np.argsort(all_codes, kind="stable")
        self.texts = np.repeat(np.arange(len(text_codes)), self.counts)[order]
        """An inverted index: the texts that have the first bigram, then those that have the second, …"""
        runs = np.unique(all_codes[order], return_index=True, return_counts=True)
        self.codes, self.starts, self.lengths = runs

    def encode_bigrams(self, word_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """An integer per pair of neighbouring words."""
        return word_ids[:-1] * self.vocabulary_size + word_ids[1:]

    def add_stories(self, word_ids: NDArray[np.int64], story_ids: NDArray[np.int64]) -> None:
        """Update each text's largest number of bigrams shared with one story."""
        if not len(self.codes):
            return
        story_codes = self.encode_bigrams(word_ids)
        indices = np.searchsorted(self.codes, story_codes).clip(max=len(self.codes) - 1)
        is_match = self.codes[indices] == story_codes
        # np.unique: a bigram counts once per story, however often it occurs
        matches = np.unique(story_ids[:-1][is_match] * len(self.codes) + indices[is_match])
        story, bigram = np.divmod(matches, len(self.codes))
        lengths = self.lengths[bigram]
        first = np.repeat(self.starts[bigram] - (lengths.cumsum() - lengths), lengths)
        texts = self.texts[first + np.arange(len(first))]
        size = (int(story_ids[-1]) + 1) * len(self.most_shared)
        shared = np.bincount(np.repeat(story, lengths) * len(self.most_shared) + texts, minlength=size)
        self.most_shared = np.maximum(self.most_shared, shared.reshape(-1, len(self.most_shared)).max(axis=0))

    def largest_shares(self) -> list[float]:
        """The share of each text's bigrams in its nearest story."""
        return (self.most_shared / self.counts.clip(min=1)).tolist()  # type: ignore[no-any-return]
