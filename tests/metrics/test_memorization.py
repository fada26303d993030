from __future__ import annotations

import random
from itertools import pairwise

from smalltale.metrics.memorization import BATCH_STORIES, NGRAM_WORDS, measure_copying
from smalltale.text_signals import split_words

TRAINED = "Mia had a small red kite and she took it up the hill one windy day. It flew high."


def copying_by_plain_search(text: str, stories: list[str]) -> tuple[int, float]:
    """The same figures by comparing every n-gram with every story."""
    words, story_words = split_words(text), [split_words(story) for story in stories]
    trained = {
        tuple(story[i : i + NGRAM_WORDS])
        for story in story_words
        for i in range(len(story) - NGRAM_WORDS + 1)
    }
    longest = length = 0
    for i in range(len(words) - NGRAM_WORDS + 1):
        length = length + 1 if tuple(words[i : i + NGRAM_WORDS]) in trained else 0
        longest = max(longest, length)
    bigrams = set(pairwise(words))
    nearest = max((len(bigrams & set(pairwise(story))) for story in story_words), default=0)
    return (longest + NGRAM_WORDS - 1 if longest else 0), nearest / max(1, len(bigrams))


def copying(texts: list[str], stories: list[str]) -> list[tuple[int, float]]:
    return [(statistics.words, statistics.nearest) for statistics in measure_copying(texts, stories)]


def test_a_copied_span_is_measured_in_words() -> None:
    texts = [
        "Then he took it. A small red kite and she took it up the hill, he said.",
        "Nothing of that is copied, not one run of eight words.",
        TRAINED.upper(),
        "",
    ]
    words, nearest = zip(*copying(texts, [TRAINED]), strict=True)
    assert words == (11, 0, 19, 0)
    assert nearest[2:] == (1, 0)


def test_a_span_does_not_continue_from_one_story_into_the_next() -> None:
    first, second = "one two three four five six", "seven eight nine ten eleven twelve"
    text = f"{first} {second}"
    assert [words for words, _ in copying([text], [first, second])] == [0]
    assert [words for words, _ in copying([text], [text])] == [12]


def test_copying_equals_a_plain_search_in_many_stories() -> None:
    generator = random.Random(1)
    vocabulary = ["the", "a", "cat", "dog", "ran", "home"]
    stories = [
        " ".join(generator.choices(vocabulary, k=generator.randint(0, 30))) for _ in range(BATCH_STORIES + 99)
    ]
    texts = [" ".join(generator.choices([*vocabulary, "owl"], k=generator.randint(0, 60))) for _ in range(20)]
    texts += [f"owl {stories[-1]} owl", stories[3]]
    assert copying(texts, stories) == [copying_by_plain_search(text, stories) for text in texts]


def test_without_stories_nothing_is_copied() -> None:
    assert copying(["A cat ran."], []) == [(0, 0)]
    assert copying([], [TRAINED]) == []
