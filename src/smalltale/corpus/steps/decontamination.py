"""Drop stories that share a long run of words with a validation story or a prompt.

Input: the held-out texts, then batches of stories. Output: batches with the leaked stories dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from smalltale.corpus.batch import Batch
from smalltale.corpus.hashing import Hashes, WordHashes, hash_ngrams, hash_words, mix_bits, rolling_hash

SHORTEST_LEAK_WORDS = 13
"""A held-out text with fewer words is the opening of too many stories to search for."""


@dataclass(frozen=True)
class DropLeaks:
    """Step: drop each story that shares a run of words with a held-out text."""

    index_path: Path
    """A LeakIndex, loaded once per worker."""

    def __call__(self, batch: Batch) -> Batch:
        index = load_leak_index(self.index_path, self.index_path.stat().st_mtime_ns)
        leaks = index.find(batch.word_hashes)
        if not leaks:
            return batch
        leaked = [
            batch.kept[row]._replace(reason="leak", detail=index.names[leaks[row]])
            for row in sorted(leaks, reverse=True)
        ]
        unleaked = [document for row, document in enumerate(batch.kept) if row not in leaks]
        return Batch([*batch.dropped, *leaked, *unleaked])


@dataclass(frozen=True)
class LeakIndex:
    """The runs of words that must not occur in a training story."""

    by_length: dict[int, tuple[Hashes, NDArray[np.int32], NDArray[np.uint8]]]
    """For each run length: the sorted hashes of the runs, the text of each run, and a Bloom filter of one hash."""
    names: Sequence[str]
    """Names of the held-out texts, for the report."""

    def find(self, words: WordHashes) -> dict[int, int]:
        """Return the number of the held-out text for each story that contains one of its runs."""
        text_by_story: dict[int, int] = {}
        for length, (hashes, owners, bloom) in self.by_length.items():
            if len(words.hashes) < length:
                continue
            runs = mix_bits(rolling_hash(words.hashes, length))
            bit = runs >> np.uint64(64 - filter_bits(len(hashes)))
            maybe = np.flatnonzero((bloom[bit >> np.uint64(3)] >> (bit & np.uint64(7)).astype(np.uint8)) & 1)
            nearest = np.minimum(np.searchsorted(hashes, runs[maybe]), len(hashes) - 1)
            matches = hashes[nearest] == runs[maybe]
            starts = maybe[matches]
            story = np.searchsorted(words.offsets, starts, side="right") - 1
            is_inside = starts + length <= words.offsets[story + 1]
            texts = owners[nearest[matches][is_inside]]
            for number, text in zip(story[is_inside].tolist(), texts.tolist(), strict=True):
                text_by_story.setdefault(number, text)
        return text_by_story

    def save(self, file: BinaryIO) -> None:
        arrays: dict[str, NDArray[Any]] = {"names": np.array(self.names, np.str_)}
        for length, (hashes, owners, _) in self.by_length.items():
            arrays[f"hashes_{length}"], arrays[f"owners_{length}"] = hashes, owners
        np.savez(file, **arrays)  # type: ignore[arg-type]


@lru_cache(maxsize=1)
def load_leak_index(path: Path, modified_ns: int) -> LeakIndex:
    """Load an index that `save` wrote; `modified_ns` makes the cache notice a new file of the same name."""
    with np.load(path) as arrays:
        lengths = [int(name.partition("_")[2]) for name in arrays.files if name.startswith("hashes_")]
        by_length = {n: index_runs(arrays[f"hashes_{n}"], arrays[f"owners_{n}"]) for n in lengths}
        return LeakIndex(by_length, arrays["names"].tolist())


def build_leak_index(texts: Sequence[str], names: Sequence[str], length: int) -> LeakIndex:
    """Index every run of `length` words of `texts`, and each shorter text of at least SHORTEST_LEAK_WORDS in full."""
    words = hash_words(texts)
    runs, offsets = hash_ngrams(words, length)
    short_texts: dict[int, list[tuple[int, int]]] = {}
    is_short = (words.counts < length) & (words.counts >= SHORTEST_LEAK_WORDS)
    for number in np.flatnonzero(is_short).tolist():
        text = words.hashes[words.offsets[number] : words.offsets[number + 1]]
        run = int(mix_bits(rolling_hash(text, len(text)))[0])
        short_texts.setdefault(len(text), []).append((run, number))
    by_length = {
        size: index_runs(
            np.array([run for run, _ in runs_of_size], np.uint64),
            np.array([owner for _, owner in runs_of_size], np.int32),
        )
        for size, runs_of_size in sorted(short_texts.items())
    }
    if len(runs):
        owners = np.repeat(np.arange(len(texts), dtype=np.int32), np.diff(offsets))
        by_length[length] = index_runs(runs, owners)
    return LeakIndex(by_length, names)


def index_runs(
    runs: Hashes, owners: NDArray[np.int32]
) -> tuple[Hashes, NDArray[np.int32], NDArray[np.uint8]]:
    """Sort runs with their owners and build their Bloom filter."""
    order = np.argsort(runs, kind="stable")
    bits = filter_bits(len(runs))
    bloom = np.zeros(1 << (bits - 3), np.uint8)
    bit = runs >> np.uint64(64 - bits)
    masks = np.left_shift(np.uint8(1), (bit & np.uint64(7)).astype(np.uint8))
    np.bitwise_or.at(bloom, (bit >> np.uint64(3)).astype(np.int64), masks)
    return runs[order], owners[order], bloom


def filter_bits(count: int) -> int:
    """Bits of the filter's index: 16 to 32 filter bits per run let about 1 in 20 other runs through."""
    return min(max(count.bit_length() + 4, 10), 28)
