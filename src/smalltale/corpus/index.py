"""The index of all stories of a build: hashes, lengths and origins, without the texts.

Input: the parts and the stories of the validation file. Output: arrays of about 280 bytes per story.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smalltale.corpus.hashing import hash_stories, hash_words
from smalltale.corpus.parts import PartSummary, load_arrays, part_stem
from smalltale.corpus.steps.dedup import MinHashSketches, minhash


@dataclass(frozen=True)
class StoryIndex:
    """All stories (N,): those of the validation file first, then part after part."""

    part: NDArray[np.int32]
    """The part of each story; -1 for the validation file."""
    row: NDArray[np.int32]
    """Its row in the part."""
    source: NDArray[np.int64]
    """Its source, as an index of `source_names`."""
    source_names: Sequence[str]
    keys: NDArray[np.uint64]
    """Equal for stories with the same words."""
    lengths: NDArray[np.int64]
    """UTF-8 bytes."""
    in_validation: NDArray[np.bool_]
    read_order: NDArray[np.int64]

    @property
    def is_from_file(self) -> NDArray[np.bool_]:
        """Which stories come from the validation file."""
        return self.part < 0


def load_index(folder: Path, summaries: Sequence[PartSummary], validation: Sequence[str]) -> StoryIndex:
    """Load the index of all parts and of the stories of the validation file."""
    parts, held_out = len(summaries), len(validation)
    sizes = [summary.kept for summary in summaries]
    starts = np.cumsum([held_out, *sizes])[:-1]
    names = list(dict.fromkeys(summary.source for summary in summaries))
    part = np.repeat(np.arange(-1, parts, dtype=np.int32), [held_out, *sizes])
    source_of_part = np.array([names.index(summary.source) for summary in summaries], np.int64)
    read_order = zip(starts, load_arrays(folder, parts, "read_order"), strict=True)
    lengths = np.array([len(text.encode()) for text in validation], np.int64)
    return StoryIndex(
        part=part,
        row=np.concatenate([np.arange(size, dtype=np.int32) for size in [held_out, *sizes]]),
        source=source_of_part[np.maximum(part, 0)],
        source_names=names,
        keys=np.concatenate([hash_stories(hash_words(validation)), *load_arrays(folder, parts, "keys")]),
        lengths=np.concatenate([lengths, *load_arrays(folder, parts, "lengths")]).astype(np.int64),
        in_validation=np.concatenate([np.ones(held_out, bool), *load_arrays(folder, parts, "in_validation")]),
        read_order=np.concatenate(
            [np.arange(held_out), *(start + order for start, order in read_order)]
        ).astype(np.int64),
    )


@dataclass(frozen=True)
class StoredSketches:
    """The MinHash sketches of all stories; the bands are read from the parts one at a time."""

    folder: Path
    parts: int
    validation: MinHashSketches
    signatures: NDArray[np.uint8]

    def band(self, number: int) -> NDArray[np.uint32]:
        stored = (part_stem(self.folder, part).with_suffix(".bands.npy") for part in range(self.parts))
        return np.concatenate(
            [self.validation.band(number), *(np.load(path, mmap_mode="r")[number] for path in stored)]
        )


def load_sketches(
    folder: Path, summaries: Sequence[PartSummary], validation: Sequence[str]
) -> StoredSketches:
    """Load the signatures of all stories in the order of the index."""
    sketches = minhash(hash_words(validation))
    total = len(validation) + sum(summary.kept for summary in summaries)
    signatures = np.empty((total, sketches.signatures.shape[1]), np.uint8)
    signatures[: len(validation)] = sketches.signatures
    start = len(validation)
    for part in load_arrays(folder, len(summaries), "signatures"):
        signatures[start : start + len(part)] = part
        start += len(part)
    return StoredSketches(folder, len(summaries), sketches, signatures)
