"""Hashes of words, of runs of words and of whole stories, for a batch of texts at once.

In: texts. Out: uint64 arrays; equal words give equal hashes on every platform and in every run.
Beware: only letters and digits count; case, punctuation and white space do not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Offsets = NDArray[np.int64]

LETTER_BASE = np.uint64(0x100000001B3)
WORD_BASE = np.uint64(0x9E3779B97F4A7C15)
LONGEST_WORD = 48
"""Letters of a word that count; longer ones differ by their length alone."""
OTHER_SIGNS = re.compile(r"[^\w\s\x00-\x7f]+")
IN_WORD = np.zeros(256, bool)
for _byte in range(256):
    IN_WORD[_byte] = _byte >= 128 or (chr(_byte).isalnum() and _byte < 128)


@dataclass(frozen=True)
class Words:
    """The words of a batch: hashes (W,), and for story i its words are hashes[offsets[i]:offsets[i + 1]]."""

    hashes: Hashes
    offsets: Offsets

    @property
    def counts(self) -> Offsets:
        """Words of each story (stories,)."""
        return np.diff(self.offsets)


def hash_words(texts: Sequence[str]) -> Words:
    """The word hashes of `texts`."""
    lowered = [text.lower() for text in texts]
    joined = "\n".join(lowered)
    if not joined.isascii():
        lowered = [text if text.isascii() else OTHER_SIGNS.sub(" ", text) for text in lowered]
        joined = "\n".join(lowered)
    encoded = joined.encode("utf-8", "surrogatepass")
    letters = np.frombuffer(encoded, np.uint8)
    inside = np.zeros(len(letters) + 2, bool)
    inside[1:-1] = IN_WORD[letters]
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    starts, lengths = edges[::2], edges[1::2] - edges[::2]
    order = np.argsort(
        -np.minimum(lengths, 127).astype(np.int8), kind="stable"
    )  # so the words that go on are a prefix
    place = starts[order]
    longest_first = lengths[order]
    ordered = longest_first.astype(np.uint64)
    for step in range(min(int(lengths.max(initial=0)), LONGEST_WORD)):
        alive = int(np.searchsorted(-longest_first, -step, side="left")) if step < 127 else 0
        ordered[:alive] *= LETTER_BASE
        ordered[:alive] += letters[place[:alive] + step]
    hashes = np.empty_like(ordered)
    hashes[order] = ordered
    if joined.isascii():
        sizes = np.fromiter((len(text) + 1 for text in lowered), np.int64, len(lowered))
    else:
        sizes = np.fromiter(
            (len(text.encode("utf-8", "surrogatepass")) + 1 for text in lowered), np.int64, len(lowered)
        )
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    return Words(mixed(hashes), np.searchsorted(starts, bounds).astype(np.int64))


def runs(words: Words, length: int) -> tuple[Hashes, Offsets]:
    """The hashes of every run of `length` words within a story, and where each story's begin (stories + 1,)."""
    total = len(words.hashes)
    counts = np.maximum(words.counts - length + 1, 0)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    if total < length or not offsets[-1]:
        return np.zeros(0, np.uint64), offsets
    hashes = rolling(words.hashes, length)
    within = np.arange(offsets[-1]) + np.repeat(words.offsets[:-1] - offsets[:-1], counts)
    return mixed(hashes[within]), offsets


def rolling(hashes: Hashes, length: int) -> Hashes:
    """A polynomial hash of every `length` neighbours, by doubling: (W,) -> (W - length + 1,)."""
    done, result = 0, np.zeros(0, np.uint64)
    block, size, base = hashes, 1, WORD_BASE
    while True:
        if length & size:
            result = (
                block
                if not done
                else result[: len(hashes) - done - size + 1] * base + block[done : len(hashes) - size + 1]
            )
            done += size
        if done == length:
            return result
        block = block[:-size] * base + block[size:]
        with np.errstate(over="ignore"):
            base = base * base
        size *= 2


def story_keys(words: Words) -> Hashes:
    """One hash a story (stories,): equal where two stories have the same words in the same order."""
    if not len(words.hashes):
        return mixed(words.counts.astype(np.uint64))
    longest = int(words.counts.max())
    powers = np.full(longest, WORD_BASE, np.uint64)
    powers[0] = 1
    powers = np.multiply.accumulate(powers)
    place = np.arange(len(words.hashes)) - np.repeat(words.offsets[:-1], words.counts)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(words.hashes * powers[place], dtype=np.uint64)])
    return mixed(sums[words.offsets[1:]] - sums[words.offsets[:-1]] + words.counts.astype(np.uint64))


def mixed(values: Hashes, salt: int = 0) -> Hashes:
    """Spread every bit over all bits (the finalizer of SplitMix64); another salt gives other values."""
    values = values + np.uint64((salt * 0x9E3779B97F4A7C15) & (2**64 - 1))
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def shares(values: Hashes) -> NDArray[np.float64]:
    """Hashes as numbers 0 <= x < 1."""
    return (values >> np.uint64(11)).astype(np.float64) / float(1 << 53)
