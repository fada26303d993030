"""Exact and near duplicates."""

from __future__ import annotations

import random

import numpy as np
import pytest

from smalltale.corpus.fable.generator import generate_stories
from smalltale.corpus.hashing import hash_stories, hash_words
from smalltale.corpus.steps.dedup import DUPLICATE, KEPT, LEAK, NEAR_DUPLICATE, find_duplicates, minhash


def judge_texts(texts: list[str], held_out: int = 0, threshold: float = 0.8) -> tuple[list[int], list[int]]:
    words = hash_words(texts)
    lengths = np.array([len(text) for text in texts], np.int64)
    is_held_out = np.arange(len(texts)) < held_out
    verdicts = find_duplicates(
        hash_stories(words), lengths, is_held_out, np.arange(len(texts)), minhash(words), threshold
    )
    return verdicts.code.tolist(), verdicts.kept_copy.tolist()


def test_the_longest_of_exact_duplicates_is_kept_and_the_first_of_equal_ones() -> None:
    a, b, c = generate_stories(1, 3)
    code, kept_copy = judge_texts([a, b, a + "\n\n", c, b])
    assert code == [DUPLICATE, KEPT, KEPT, KEPT, DUPLICATE]
    assert kept_copy == [2, 1, 2, 3, 1]


def test_a_near_duplicate_is_dropped_and_the_longer_story_kept() -> None:
    a, b = generate_stories(2, 2)
    longer = a + " And that was that."
    code, kept_copy = judge_texts([a, b, longer])
    assert (code, kept_copy) == ([NEAR_DUPLICATE, KEPT, KEPT], [2, 1, 2])


def test_a_held_out_story_is_never_dropped_and_its_copies_are_leaks() -> None:
    a, b, c = generate_stories(3, 3)
    code, kept_copy = judge_texts([a, a, a + " The sun went down.", b, c], held_out=2)
    assert code == [KEPT, KEPT, LEAK, KEPT, KEPT]
    assert kept_copy[2] in (0, 1)


def test_stories_too_short_for_a_shingle_are_not_near_duplicates() -> None:
    assert judge_texts(["one two", "three four", "five"])[0] == [KEPT] * 3


def test_no_stories_give_no_verdicts() -> None:
    assert judge_texts([]) == ([], [])


def replace_words(text: str, share: float, chance: random.Random) -> str:
    """`text` with words replaced so that about `share` of its 5-word shingles remain."""
    words = text.split()
    positions = list(range(len(words)))
    chance.shuffle(positions)
    changed: set[int] = set()
    shingles = len(words) - 4
    for position in positions:
        candidate = changed | set(range(max(0, position - 4), min(shingles, position + 1)))
        unchanged = shingles - len(candidate)
        if unchanged / (2 * shingles - unchanged) < share:
            continue
        changed, words[position] = candidate, f"zq{chance.randrange(10**9)}"
    return " ".join(words)


@pytest.mark.parametrize(
    ("overlap", "low", "high"), [(0.95, 1.0, 1.0), (0.9, 0.97, 1.0), (0.7, 0.0, 0.1), (0.5, 0.0, 0.0)]
)
def test_near_duplicates_are_found_by_their_overlap(overlap: float, low: float, high: float) -> None:
    chance = random.Random(1)
    originals = list(generate_stories(4, 300))
    copies = [replace_words(text, overlap, chance) for text in originals]
    code, _ = judge_texts(originals + copies)
    recall = code.count(NEAR_DUPLICATE) / len(originals)
    assert low <= recall <= high
