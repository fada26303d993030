"""Find exact and near duplicates among all stories of a corpus with MinHash and locality-sensitive hashing.

Input: hashes of the stories. Output: which stories are dropped, why, and which copy of each is kept.
Near duplicates are found by an estimate of the Jaccard similarity of 5-word shingles, accurate to about 0.04.
Held-out stories are never dropped; their copies are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from smalltale.corpus.hashing import Hashes, WordHashes, hash_ngrams, mix_bits

SHINGLE_WORDS = 5
BANDS = 20
BAND_ROWS = 6
"""20 bands of 6 rows make 99.8 % of the pairs that share 0.8 of their shingles candidates, 92 % at 0.7, 27 % at 0.5."""
MINHASH_SEED = 20_230_512
KEPT, DUPLICATE, NEAR_DUPLICATE, LEAK = range(4)
REASONS = {DUPLICATE: "duplicate", NEAR_DUPLICATE: "near-duplicate", LEAK: "leak"}
PAIRS_PER_CHUNK = 200_000


@dataclass(frozen=True)
class MinHashSketches:
    """MinHash sketches of N stories."""

    bands: NDArray[np.uint32]
    """(BANDS, N): a hash of each band of the signature; 0 for a story too short for a shingle."""
    signatures: NDArray[np.uint8]
    """(N, BANDS * BAND_ROWS): the low 8 bits of each minimum."""

    def band(self, number: int) -> NDArray[np.uint32]:
        """One band of all stories (N,)."""
        values: NDArray[np.uint32] = self.bands[number]
        return values


class SketchStore(Protocol):
    """MinHash sketches whose bands may be on disk."""

    @property
    def signatures(self) -> NDArray[np.uint8]: ...

    def band(self, number: int) -> NDArray[np.uint32]: ...


def minhash(words: WordHashes) -> MinHashSketches:
    """Compute the MinHash sketches of stories over their shingles of SHINGLE_WORDS words."""
    shingles, offsets = hash_ngrams(words, SHINGLE_WORDS)
    count = len(offsets) - 1
    if not count:
        return MinHashSketches(np.zeros((BANDS, 0), np.uint32), np.zeros((0, BANDS * BAND_ROWS), np.uint8))
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        shingles, offsets.astype(np.uint64), BANDS * BAND_ROWS, MINHASH_SEED
    )
    minima = np.array(matrix.to_rows(), np.uint32)
    rows = minima.reshape(count, BANDS, BAND_ROWS).astype(np.uint64)
    bands = np.zeros((BANDS, count), np.uint32)
    for band in range(BANDS):
        value = np.full(count, band, np.uint64)
        for row in range(BAND_ROWS):
            value = mix_bits(value ^ rows[:, band, row], row + 1)
        bands[band] = (value >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
    bands[:, np.diff(offsets) == 0] = 0
    return MinHashSketches(bands, (minima & 0xFF).astype(np.uint8))


@dataclass(frozen=True)
class DuplicateVerdicts:
    """Which of N stories are dropped as copies."""

    code: NDArray[np.uint8]
    """KEPT, DUPLICATE, NEAR_DUPLICATE or LEAK."""
    kept_copy: NDArray[np.int64]
    """The story that is kept instead; its own number if it is kept itself."""


def find_duplicates(
    keys: Hashes,
    lengths: NDArray[np.int64],
    is_held_out: NDArray[np.bool_],
    read_order: NDArray[np.int64],
    sketches: SketchStore | None,
    threshold: float,
) -> DuplicateVerdicts:
    """Keep one story of each group of copies: a held-out story, else the longest, else the first one read.

    Without `sketches` only exact duplicates are dropped. A copy of a held-out story is a leak.
    """
    count = len(keys)
    rank = np.empty(count, np.int64)
    rank[np.lexsort((read_order, -lengths, ~is_held_out))] = np.arange(count)
    kept_copy = np.arange(count)
    order = np.lexsort((rank, keys))
    is_first = np.concatenate([[True], keys[order][1:] != keys[order][:-1]]) if count else np.zeros(0, bool)
    best = order[np.maximum.accumulate(np.where(is_first, np.arange(count), 0))]
    kept_copy[order] = np.where(is_held_out[order], order, best)
    dropped_code = np.where(is_held_out[kept_copy], LEAK, DUPLICATE)
    code = np.where(kept_copy != np.arange(count), dropped_code, KEPT).astype(np.uint8)
    if sketches is not None:
        candidates = np.flatnonzero(code == KEPT)
        for story, better in group_near_duplicates(sketches, candidates, rank, threshold).items():
            if not is_held_out[story]:
                kept_copy[story], code[story] = better, LEAK if is_held_out[better] else NEAR_DUPLICATE
        # The copy that an exact duplicate points to may have been dropped as a near duplicate.
        exact = code == DUPLICATE
        code[exact & (code[kept_copy] == LEAK)] = LEAK
        kept_copy[exact] = kept_copy[kept_copy[exact]]
    return DuplicateVerdicts(code, kept_copy)


def group_near_duplicates(
    sketches: SketchStore, candidates: NDArray[np.int64], rank: NDArray[np.int64], threshold: float
) -> dict[int, int]:
    """Return the best-ranked story of its group for each near duplicate to drop (union-find over all bands)."""
    parent: dict[int, int] = {}

    def find_root(story: int) -> int:
        while (above := parent.get(story, story)) != story:
            parent[story] = story = parent.get(above, above)
        return story

    for band in range(BANDS):
        values = sketches.band(band)[candidates]
        order = np.argsort(values, kind="stable")
        ordered = values[order]
        equal = np.flatnonzero((ordered[1:] == ordered[:-1]) & (ordered[1:] != 0))
        if not len(equal):
            continue
        is_first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
        first = np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))
        # Each story of a bucket is compared with its neighbour and with the first story of the bucket.
        left = candidates[order[np.concatenate([equal, first[equal + 1]])]]
        right = candidates[order[np.concatenate([equal + 1, equal + 1])]]
        similar = are_similar(sketches.signatures, left, right, threshold)
        for a, b in zip(left[similar].tolist(), right[similar].tolist(), strict=True):
            a, b = find_root(a), find_root(b)
            if a != b:
                better, worse = (a, b) if rank[a] < rank[b] else (b, a)
                parent[worse] = better
    return {story: find_root(story) for story in list(parent) if find_root(story) != story}


def are_similar(
    signatures: NDArray[np.uint8], left: NDArray[np.int64], right: NDArray[np.int64], threshold: float
) -> NDArray[np.bool_]:
    """Whether each pair shares at least `threshold` of its shingles, estimated from the signatures."""
    is_similar = np.zeros(len(left), bool)
    for start in range(0, len(left), PAIRS_PER_CHUNK):
        chunk = slice(start, start + PAIRS_PER_CHUNK)
        equal = (signatures[left[chunk]] == signatures[right[chunk]]).mean(axis=1)
        # 8 bits are equal by chance once in 256.
        is_similar[chunk] = (equal - 1 / 256) / (1 - 1 / 256) >= threshold
    return is_similar
