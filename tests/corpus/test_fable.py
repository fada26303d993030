"""The properties of fable stories."""

from __future__ import annotations

import hashlib
import random
import re
from itertools import pairwise

import pytest

from smalltale.corpus.fable.generator import PLOTS, generate_stories, generate_story

SAMPLE = 4000


@pytest.fixture(scope="module")
def sample() -> list[str]:
    return list(generate_stories(7, SAMPLE))


def shingles(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z']+", text.lower())
    return set(zip(*(words[i:] for i in range(5)), strict=False))


def test_the_grammar_has_at_least_thirty_plots() -> None:
    assert len(PLOTS) >= 30


def test_every_story_has_60_to_250_words_and_no_open_slot(sample: list[str]) -> None:
    for text in sample:
        assert 60 <= len(text.split()) <= 250
        assert "{" not in text
        assert "  " not in text
        assert text == text.strip()


def test_stories_differ_and_use_at_least_1500_words(sample: list[str]) -> None:
    assert len(set(sample)) == SAMPLE
    assert len(set(re.findall(r"[a-z]+", " ".join(sample).lower()))) >= 1500


def test_random_pairs_share_less_than_half_of_their_shingles(sample: list[str]) -> None:
    chance = random.Random(0)
    sets = [shingles(text) for text in sample]
    pairs = [chance.sample(sets, 2) for _ in range(10_000)]
    similar = sum(len(a & b) >= 0.5 * min(len(a), len(b)) for a, b in pairs)
    assert similar <= 10


def test_the_same_seed_gives_the_same_bytes() -> None:
    digest = hashlib.sha256("\0".join(generate_stories(1, 100)).encode()).hexdigest()
    assert digest == "e3b5a7d2090f88fd0a7c601a6882f531a004543dd1d23991c172d8dd3792e6f8"


def test_a_story_does_not_depend_on_its_predecessors_and_seeds_differ() -> None:
    sequence = list(generate_stories(3, 5))
    assert sequence[2] == generate_story(3, 2) == next(generate_stories(3, 1, start=2))
    assert all(
        a != b for a, b in pairwise([generate_story(1, 0), generate_story(2, 0), generate_story(3, 0)])
    )


def test_sentences_begin_with_capitals_and_speech_tags_do_not(sample: list[str]) -> None:
    text = "\n".join(sample)
    assert not re.search(r"[.!?] [a-z]", text)
    assert not re.search(r'[!?]" (Asked|Called|Shouted|Said)', text)


@pytest.mark.all
def test_a_million_stories_differ() -> None:
    seen = {
        hashlib.blake2b(text.encode(), digest_size=12).digest() for text in generate_stories(1, 1_000_000)
    }
    assert len(seen) == 1_000_000
