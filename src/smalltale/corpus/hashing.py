"""Hash the words, word n-grams and full texts of a batch of stories, vectorized with NumPy.

Input: texts. Output: uint64 arrays; equal words give equal hashes on every platform and in every run.
Only letters and digits count; case, punctuation and white space do not.
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
"""Only the first bytes and the length of a longer word are hashed."""
NON_ASCII_SYMBOLS = re.compile(r"[^\w\s\x00-\x7f]+")
IN_WORD = np.array([byte >= 128 or chr(byte).isalnum() for byte in range(256)])
"""Whether a UTF-8 byte belongs to a word."""


@dataclass(frozen=True)
class WordHashes:
    """The word hashes (W,) of a batch; those of story i are hashes[offsets[i]:offsets[i + 1]]."""

    hashes: Hashes
    offsets: Offsets

    @property
    def counts(self) -> Offsets:
        """Number of words of each story (stories,)."""
        return np.diff(self.offsets)


def hash_words(texts: Sequence[str]) -> WordHashes:
    """Hash every word of `texts`."""
    lowered = [text.lower() for text in texts]
    joined = "\n".join(lowered)
    if not joined.isascii():
        lowered = [text if text.isascii() else NON_ASCII_SYMBOLS.sub(" ", text) for text in lowered]
        joined = "\n".join(lowered)
    encoded = joined.encode("utf-8", "surrogatepass")
    letters = np.frombuffer(encoded, np.uint8)
    is_inside = np.zeros(len(letters) + 2, bool)
    is_inside[1:-1] = IN_WORD[letters]
    edges = np.flatnonzero(is_inside[1:] != is_inside[:-1])
    starts, lengths = edges[::2], edges[1::2] - edges[::2]
    # Longest first, so that the words that have a letter at position `step` are a prefix of the array.
    order = np.argsort(-np.minimum(lengths, 127).astype(np.int8), kind="stable")
    ordered_starts = starts[order]
    ordered_lengths = lengths[order]
    ordered_hashes = ordered_lengths.astype(np.uint64)
    for step in range(min(int(lengths.max(initial=0)), LONGEST_WORD)):
        count = int(np.searchsorted(-ordered_lengths, -step, side="left")) if step < 127 else 0
        ordered_hashes[:count] *= LETTER_BASE
        ordered_hashes[:count] += letters[ordered_starts[:count] + step]
    hashes = np.empty_like(ordered_hashes)
    hashes[order] = ordered_hashes
    sizes = np.fromiter((utf8_length(text) + 1 for text in lowered), np.int64, len(lowered))
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    return WordHashes(mix_bits(hashes), np.searchsorted(starts, bounds).astype(np.int64))


def utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def hash_ngrams(words: WordHashes, length: int) -> tuple[Hashes, Offsets]:
    """Hash every run of `length` words within a story; also return the offset of each story's runs (stories + 1,)."""
    total = len(words.hashes)
    counts = np.maximum(words.counts - length + 1, 0)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    if total < length or not offsets[-1]:
        return np.zeros(0, np.uint64), offsets
    hashes = rolling_hash(words.hashes, length)
    starts = np.arange(offsets[-1]) + np.repeat(words.offsets[:-1] - offsets[:-1], counts)
    return mix_bits(hashes[starts]), offsets


def rolling_hash(hashes: Hashes, length: int) -> Hashes:
    """Hash every `length` neighbours with a polynomial, by binary doubling: (W,) -> (W - length + 1,)."""
    done, result = 0, np.zeros(0, np.uint64)
    block, size, base = hashes, 1, WORD_BASE
    while True:
        if length & size:
            if done:
                block_ends = block[done : len(hashes) - size + 1]
                result = result[: len(hashes) - done - size + 1] * base + block_ends
            else:
                result = block
            done += size
        if done == length:
            return result
        block = block[:-size] * base + block[size:]
        with np.errstate(over="ignore"):
            base = base * base
        size *= 2


def hash_stories(words: WordHashes) -> Hashes:
    """Hash each story (stories,): equal if two stories have the same words in the same order."""
    if not len(words.hashes):
        return mix_bits(words.counts.astype(np.uint64))
    longest = int(words.counts.max())
    powers = np.full(longest, WORD_BASE, np.uint64)
    powers[0] = 1
    powers = np.multiply.accumulate(powers)
    position = np.arange(len(words.hashes)) - np.repeat(words.offsets[:-1], words.counts)
    sums = np.zeros(len(words.hashes) + 1, np.uint64)
    np.cumsum(words.hashes * powers[position], out=sums[1:])
    return mix_bits(sums[words.offsets[1:]] - sums[words.offsets[:-1]] + words.counts.astype(np.uint64))


def mix_bits(values: Hashes, salt: int = 0) -> Hashes:
    """Make every output bit depend on every input bit (the finalizer of SplitMix64); each salt gives other values."""
    values = values + np.uint64((salt * 0x9E3779B97F4A7C15) & (2**64 - 1))
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def to_unit_interval(values: Hashes) -> NDArray[np.float64]:
    """Map hashes to numbers 0 <= x < 1."""
    return (values >> np.uint64(11)).astype(np.float64) / float(1 << 53)
