"""Hashes of words, n-grams and stories."""

from __future__ import annotations

import numpy as np
import pytest

from smalltale.corpus.hashing import (
    hash_ngrams,
    hash_stories,
    hash_words,
    mix_bits,
    rolling_hash,
    to_unit_interval,
)


def test_case_punctuation_and_white_space_do_not_count() -> None:
    keys = hash_stories(
        hash_words(['"Oh no!" said\n Tom.', "oh no said tom", "oh no said tim", "no oh said tom", ""])
    )
    assert keys[0] == keys[1]
    assert len(set(keys.tolist())) == 4


def test_a_story_hashes_alone_as_in_a_batch() -> None:
    texts = ["Zoë ran — fast…", "", "a b c d e f g", "…", "x" * 100 + " end"]
    together = hash_words(texts)
    for i, text in enumerate(texts):
        alone = hash_words([text])
        assert (
            alone.hashes.tolist() == together.hashes[together.offsets[i] : together.offsets[i + 1]].tolist()
        )
    assert together.counts.tolist() == [3, 0, 7, 0, 2]


@pytest.mark.parametrize("length", [1, 2, 3, 5, 7, 13, 30, 31, 32])
def test_the_rolling_hash_is_the_polynomial(length: int) -> None:
    values = mix_bits(np.arange(80, dtype=np.uint64))
    rolled = rolling_hash(values, length)
    base = 0x9E3779B97F4A7C15
    assert len(rolled) == 80 - length + 1
    for i in (0, 5, 80 - length):
        expected = 0
        for value in values[i : i + length].tolist():
            expected = (expected * base + value) % 2**64
        assert int(rolled[i]) == expected


def test_ngrams_do_not_cross_stories() -> None:
    hashes, offsets = hash_ngrams(hash_words(["a b c d", "c d", "b c d"]), 3)
    assert offsets.tolist() == [0, 2, 2, 3]
    assert hashes[1] == hashes[2]


def test_the_unit_interval_is_covered_evenly() -> None:
    values = to_unit_interval(mix_bits(np.arange(10_000, dtype=np.uint64), salt=3))
    assert 0 <= values.min() < values.max() < 1
    assert abs(values.mean() - 0.5) < 0.02
