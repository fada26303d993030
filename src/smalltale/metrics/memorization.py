"""Copied training text: what of a completion stands word for word in the stories that a model was trained on.

In: completions, and training stories as a stream. Out: each completion's longest copied span and nearest story.
Beware: a span is found by its eight-word runs, so runs of different stories that happen to join count as one span: an
upper bound. Memory grows with the completions, not with the training text, which is read once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from smalltale.signals import words

log = logging.getLogger(__name__)

RUN = 8
"""Words of a run by which copies are found."""
STORIES_AT_ONCE = 500
PROGRESS_SECONDS = 0.3
OTHER = 0
"""The number of every word that no completion has, and of the gap between two stories."""


@dataclass(frozen=True, kw_only=True)
class Copied:
    """What one completion has in common with the training stories."""

    words: int
    """Words of the longest span that stands in them."""
    nearest: float
    """Share of its word pairs in the story that shares most of them."""


def find_copies(texts: Sequence[str], stories: Iterable[str]) -> list[Copied]:
    """What each text has in common with the stories."""
    said, known = numbers_of(texts)
    spans, pairs = Spans(said, len(known) + 1), Pairs(said, len(known) + 1)
    for told, story in numbered(stories, known):
        spans.read(told)
        pairs.read(told, story)
    return [
        Copied(words=length, nearest=share)
        for length, share in zip(spans.longest(), pairs.shares(), strict=True)
    ]


def longest_copies(texts: Sequence[str], stories: Iterable[str]) -> list[int]:
    """Words of each text's longest copied span."""
    said, known = numbers_of(texts)
    spans = Spans(said, len(known) + 1)
    for told, _ in numbered(stories, known):
        spans.read(told)
    return spans.longest()


def numbers_of(texts: Sequence[str]) -> tuple[list[NDArray[np.int64]], dict[str, int]]:
    """Each text as the numbers of its words, and the number of each word, from 1."""
    known: dict[str, int] = {}
    said = [[known.setdefault(word, len(known) + 1) for word in words(text)] for text in texts]
    return [np.array(each, np.int64) for each in said], known


def numbered(
    stories: Iterable[str], known: dict[str, int]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Many stories at once as the numbers of their words, a gap behind each, and each number's story."""
    waiting, done, shown = iter(stories), 0, time.monotonic()
    while batch := list(islice(waiting, STORIES_AT_ONCE)):
        told = [[*(known.get(word, OTHER) for word in words(story)), OTHER] for story in batch]
        yield (
            np.concatenate([np.array(each, np.int64) for each in told]),
            np.repeat(np.arange(len(told)), [len(each) for each in told]),
        )
        done += len(batch)
        if time.monotonic() - shown > PROGRESS_SECONDS:
            shown = time.monotonic()
            log.info("looking for copies", extra={"done": done, "total": None, "unit": "stories"})


class Spans:
    """The eight-word runs of texts, and which of them stand in the stories read."""

    def __init__(self, said: Sequence[NDArray[np.int64]], vocabulary: int) -> None:
        self.signs = np.random.default_rng(0).integers(2**64, size=vocabulary, dtype=np.uint64)
        self.runs = [self.hashes(each) for each in said]
        self.wanted = np.unique(np.concatenate([*self.runs, np.zeros(1, np.uint64)]))
        self.found = np.zeros(len(self.wanted), dtype=bool)

    def hashes(self, said: NDArray[np.int64]) -> NDArray[np.uint64]:
        """A 64-bit number for each run: (words - 7,)."""
        signs = self.signs[said]
        count = max(0, len(signs) - RUN + 1)
        total = np.zeros(count, np.uint64)
        for place in range(RUN):
            total = total * np.uint64(0x9E3779B97F4A7C15) + signs[place : place + count]
        return total

    def read(self, told: NDArray[np.int64]) -> None:
        """Mark the runs that stand in some stories."""
        runs = self.hashes(told)
        places = np.searchsorted(self.wanted, runs).clip(max=len(self.wanted) - 1)
        self.found[places[self.wanted[places] == runs]] = True

    def longest(self) -> list[int]:
        """Words of each text's longest span of such runs."""
        lengths = []
        for runs in self.runs:
            most = length = 0
            for hit in self.found[np.searchsorted(self.wanted, runs)].tolist():
                length = length + 1 if hit else 0
                most = max(most, length)
            lengths.append(most + RUN - 1 if most else 0)
        return lengths


class Pairs:
    """The word pairs of texts, and how many of them the nearest story shares."""

    def __init__(self, said: Sequence[NDArray[np.int64]], vocabulary: int) -> None:
        self.vocabulary = vocabulary
        own = [np.unique(self.codes(each)) for each in said]
        self.counts = np.array([len(each) for each in own], np.int64)
        self.most = np.zeros(len(own), np.int64)
        together = np.concatenate([*own, np.zeros(0, np.int64)])
        order = np.argsort(together, kind="stable")
        self.texts = np.repeat(np.arange(len(own)), self.counts)[order]
        """The texts that have the first pair, then those that have the second, …"""
        self.pairs, self.starts, self.lengths = np.unique(
            together[order], return_index=True, return_counts=True
        )

    def codes(self, said: NDArray[np.int64]) -> NDArray[np.int64]:
        """A number for each pair of neighbours."""
        return said[:-1] * self.vocabulary + said[1:]

    def read(self, told: NDArray[np.int64], story: NDArray[np.int64]) -> None:
        """Look whether one of some stories is nearer than those before."""
        if not len(self.pairs):
            return
        codes = self.codes(told)
        places = np.searchsorted(self.pairs, codes).clip(max=len(self.pairs) - 1)
        hit = self.pairs[places] == codes
        # each story has a pair once, however often it says it
        both = np.unique(story[:-1][hit] * len(self.pairs) + places[hit])
        number, place = np.divmod(both, len(self.pairs))
        lengths = self.lengths[place]
        first = np.repeat(self.starts[place] - (lengths.cumsum() - lengths), lengths)
        texts = self.texts[first + np.arange(len(first))]
        size = (int(story[-1]) + 1) * len(self.most)
        shared = np.bincount(np.repeat(number, lengths) * len(self.most) + texts, minlength=size)
        self.most = np.maximum(self.most, shared.reshape(-1, len(self.most)).max(axis=0))

    def shares(self) -> list[float]:
        """Of each text's pairs, the share in its nearest story."""
        return [float(each) for each in self.most / self.counts.clip(min=1)]
