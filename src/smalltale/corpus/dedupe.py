"""Find duplicates, near-duplicates and leaks.

In: texts, or the keys of a whole corpus. Out: which stories go, why, and for which copy.
Beware: near-duplicates are judged by MinHash estimates, right to about 0.04 of the threshold; validation stories
are never dropped, whatever equals them is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from smalltale.corpus.shingles import Hashes, Words, hash_words, mixed, rolling, runs

SHINGLE_WORDS = 5
BANDS = 20
BAND_ROWS = 6
"""20 bands of 6 make 99.8 % of pairs that share 0.8 of their shingles candidates, 92 % at 0.7, 27 % at 0.5."""
MINHASH_SEED = 20_230_512
SHORTEST_LEAK_WORDS = 13
"""A prompt with fewer words is the opening of too many stories to look for."""
KEPT, DUPLICATE, NEAR_DUPLICATE, LEAK = range(4)
REASONS = {DUPLICATE: "duplicate", NEAR_DUPLICATE: "near-duplicate", LEAK: "leak"}
COMPARED_AT_ONCE = 200_000


@dataclass(frozen=True)
class Sketches:
    """What near-duplicates of N stories are found by."""

    bands: NDArray[np.uint32]
    """(BANDS, N); 0 where a story is too short for a shingle."""
    signatures: NDArray[np.uint8]
    """(N, BANDS * BAND_ROWS), 8 bits of each minimum."""

    def band(self, number: int) -> NDArray[np.uint32]:
        """One band of all stories (N,)."""
        found: NDArray[np.uint32] = self.bands[number]
        return found


class HasBands(Protocol):
    """Sketches whose bands may lie on disk."""

    @property
    def signatures(self) -> NDArray[np.uint8]: ...

    def band(self, number: int) -> NDArray[np.uint32]: ...


def sketch(words: Words) -> Sketches:
    """The MinHash sketches of stories, over their runs of SHINGLE_WORDS words."""
    hashes, offsets = runs(words, SHINGLE_WORDS)
    count = len(offsets) - 1
    if not count:
        return Sketches(np.zeros((BANDS, 0), np.uint32), np.zeros((0, BANDS * BAND_ROWS), np.uint8))
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        hashes, offsets.astype(np.uint64), BANDS * BAND_ROWS, MINHASH_SEED
    )
    minima = np.array(matrix.to_rows(), np.uint32)
    rows = minima.reshape(count, BANDS, BAND_ROWS).astype(np.uint64)
    bands = np.zeros((BANDS, count), np.uint32)
    for band in range(BANDS):
        value = np.full(count, band, np.uint64)
        for row in range(BAND_ROWS):
            value = mixed(value ^ rows[:, band, row], row + 1)
        bands[band] = (value >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
    bands[:, np.diff(offsets) == 0] = 0
    return Sketches(bands, (minima & 0xFF).astype(np.uint8))


@dataclass(frozen=True)
class Verdicts:
    """What becomes of N stories."""

    code: NDArray[np.uint8]
    """KEPT, DUPLICATE, NEAR_DUPLICATE or LEAK."""
    winner: NDArray[np.int64]
    """The story that stands for it; its own number where it is kept."""


def judge(
    keys: Hashes,
    lengths: NDArray[np.int64],
    held_out: NDArray[np.bool_],
    first: NDArray[np.int64],
    sketches: HasBands | None,
    threshold: float,
) -> Verdicts:
    """Keep one story of each group of copies: a held-out one, else the longest, else the first read."""
    count = len(keys)
    rank = np.empty(count, np.int64)
    rank[np.lexsort((first, -lengths, ~held_out))] = np.arange(count)
    winner = np.arange(count)
    order = np.lexsort((rank, keys))
    begins = np.concatenate([[True], keys[order][1:] != keys[order][:-1]]) if count else np.zeros(0, bool)
    heads = order[np.maximum.accumulate(np.where(begins, np.arange(count), 0))]
    winner[order] = np.where(held_out[order], order, heads)
    code = np.where(winner != np.arange(count), np.where(held_out[winner], LEAK, DUPLICATE), KEPT).astype(
        np.uint8
    )
    if sketches is not None:
        alive = np.flatnonzero(code == KEPT)
        for story, better in near_groups(sketches, alive, rank, threshold).items():
            if not held_out[story]:
                winner[story], code[story] = better, LEAK if held_out[better] else NEAR_DUPLICATE
        moved = code == DUPLICATE  # the copy that an exact duplicate points to may itself have gone
        code[moved & (code[winner] == LEAK)] = LEAK
        winner[moved] = winner[winner[moved]]
    return Verdicts(code, winner)


def near_groups(
    sketches: HasBands, alive: NDArray[np.int64], rank: NDArray[np.int64], threshold: float
) -> dict[int, int]:
    """For each near-duplicate that goes, the best-ranked story of its group."""
    parent: dict[int, int] = {}

    def root(story: int) -> int:
        while (above := parent.get(story, story)) != story:
            parent[story] = story = parent.get(above, above)
        return story

    for band in range(BANDS):
        values = sketches.band(band)[alive]
        order = np.argsort(values, kind="stable")
        ordered = values[order]
        same = np.flatnonzero((ordered[1:] == ordered[:-1]) & (ordered[1:] != 0))
        if not len(same):
            continue
        begins = np.concatenate([[True], ordered[1:] != ordered[:-1]])
        first = np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))
        left = alive[order[np.concatenate([same, first[same + 1]])]]
        right = alive[order[np.concatenate([same + 1, same + 1])]]
        near = alike(sketches.signatures, left, right, threshold)
        for a, b in zip(left[near].tolist(), right[near].tolist(), strict=True):
            a, b = root(a), root(b)
            if a != b:
                better, worse = (a, b) if rank[a] < rank[b] else (b, a)
                parent[worse] = better
    return {story: root(story) for story in list(parent) if root(story) != story}


def alike(
    signatures: NDArray[np.uint8], left: NDArray[np.int64], right: NDArray[np.int64], threshold: float
) -> NDArray[np.bool_]:
    """Whether each pair shares at least `threshold` of its shingles, as the signatures tell."""
    result = np.zeros(len(left), bool)
    for at in range(0, len(left), COMPARED_AT_ONCE):
        part = slice(at, at + COMPARED_AT_ONCE)
        equal = (signatures[left[part]] == signatures[right[part]]).mean(axis=1)
        result[part] = (equal - 1 / 256) / (1 - 1 / 256) >= threshold  # 8 bits agree by chance once in 256
    return result


@dataclass(frozen=True)
class Leaks:
    """Runs of words that must not stand in a training story, by their length."""

    by_length: dict[int, tuple[Hashes, NDArray[np.int32], NDArray[np.uint8]]]
    """Sorted hashes, the text each came from, and a filter of bits."""

    def find(self, words: Words) -> dict[int, int]:
        """For each story that holds such a run, the number of the text it came from."""
        found: dict[int, int] = {}
        for length, (hashes, owners, sieve) in self.by_length.items():
            if len(words.hashes) < length:
                continue
            seen = mixed(rolling(words.hashes, length))
            bit = seen >> np.uint64(64 - filter_bits(len(hashes)))
            maybe = np.flatnonzero((sieve[bit >> np.uint64(3)] >> (bit & np.uint64(7)).astype(np.uint8)) & 1)
            place = np.minimum(np.searchsorted(hashes, seen[maybe]), len(hashes) - 1)
            sure = hashes[place] == seen[maybe]
            starts = maybe[sure]
            story = np.searchsorted(words.offsets, starts, side="right") - 1
            inside = starts + length <= words.offsets[story + 1]
            for number, owner in zip(
                story[inside].tolist(), owners[place[sure][inside]].tolist(), strict=True
            ):
                found.setdefault(number, owner)
        return found

    def save(self, out: BinaryIO) -> None:
        arrays: dict[str, NDArray[Any]] = {}
        for length, (hashes, owners, _) in self.by_length.items():
            arrays[f"hashes_{length}"], arrays[f"owners_{length}"] = hashes, owners
        np.savez(out, **arrays)  # type: ignore[arg-type]

    @staticmethod
    def load(path: Path) -> Leaks:
        with np.load(path) as arrays:
            lengths = [int(name.partition("_")[2]) for name in arrays.files if name.startswith("hashes_")]
            return Leaks(
                {each: with_filter(arrays[f"hashes_{each}"], arrays[f"owners_{each}"]) for each in lengths}
            )


def leaks_of(texts: Sequence[str], length: int) -> Leaks:
    """What to look for so that no run of `length` words of `texts`, nor a whole shorter text, stays in training."""
    words = hash_words(texts)
    hashes, offsets = runs(words, length)
    table: dict[int, list[tuple[int, int]]] = {}
    for number in np.flatnonzero((words.counts < length) & (words.counts >= SHORTEST_LEAK_WORDS)).tolist():
        own = words.hashes[words.offsets[number] : words.offsets[number + 1]]
        table.setdefault(len(own), []).append((int(mixed(rolling(own, len(own)))[0]), number))
    by_length = {
        size: with_filter(
            np.array([each for each, _ in pairs], np.uint64),
            np.array([owner for _, owner in pairs], np.int32),
        )
        for size, pairs in sorted(table.items())
    }
    if len(hashes):
        by_length[length] = with_filter(
            hashes, np.repeat(np.arange(len(texts), dtype=np.int32), np.diff(offsets))
        )
    return Leaks(by_length)


def with_filter(
    hashes: Hashes, owners: NDArray[np.int32]
) -> tuple[Hashes, NDArray[np.int32], NDArray[np.uint8]]:
    order = np.argsort(hashes, kind="stable")
    bits = filter_bits(len(hashes))
    sieve = np.zeros(1 << (bits - 3), np.uint8)
    bit = hashes >> np.uint64(64 - bits)
    np.bitwise_or.at(
        sieve,
        (bit >> np.uint64(3)).astype(np.int64),
        np.left_shift(np.uint8(1), (bit & np.uint64(7)).astype(np.uint8)),
    )
    return hashes[order], owners[order], sieve


def filter_bits(count: int) -> int:
    """Bits of the filter's index: 16 to 32 bits of filter a hash, so that one in 20 of the others passes."""
    return min(max(count.bit_length() + 4, 10), 28)
