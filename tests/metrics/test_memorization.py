from __future__ import annotations

import random

from smalltale.metrics.memorization import RUN, STORIES_AT_ONCE, find_copies
from smalltale.signals import words

TRAINED = "Mia had a small red kite and she took it up the hill one windy day. It flew high."


def plainly(text: str, stories: list[str]) -> tuple[int, float]:
    """The same by looking at every run and every story."""
    said, told = words(text), [words(story) for story in stories]
    runs = {tuple(each[at : at + RUN]) for each in told for at in range(len(each) - RUN + 1)}
    most = length = 0
    for at in range(len(said) - RUN + 1):
        length = length + 1 if tuple(said[at : at + RUN]) in runs else 0
        most = max(most, length)
    pairs = {tuple(said[at : at + 2]) for at in range(len(said) - 1)}
    nearest = max(
        (len(pairs & {tuple(each[at : at + 2]) for at in range(len(each) - 1)}) for each in told), default=0
    )
    return (most + RUN - 1 if most else 0), nearest / max(1, len(pairs))


def test_a_copied_span_is_measured_in_words() -> None:
    texts = [
        "Then he took it. A small red kite and she took it up the hill, he said.",
        "Nothing of that stands in there, not one run of eight words.",
        TRAINED.upper(),
        "",
    ]
    found = find_copies(texts, [TRAINED])
    assert [each.words for each in found] == [11, 0, 19, 0]
    assert [each.nearest for each in found][2:] == [1, 0]


def test_a_span_does_not_go_on_from_one_story_into_the_next() -> None:
    one, two = "one two three four five six", "seven eight nine ten eleven twelve"
    assert [each.words for each in find_copies([f"{one} {two}"], [one, two])] == [0]
    assert [each.words for each in find_copies([f"{one} {two}"], [f"{one} {two}"])] == [12]


def test_what_is_found_in_many_stories_is_what_a_plain_search_finds() -> None:
    chance = random.Random(1)
    vocabulary = ["the", "a", "cat", "dog", "ran", "home"]
    stories = [
        " ".join(chance.choices(vocabulary, k=chance.randint(0, 30))) for _ in range(STORIES_AT_ONCE + 99)
    ]
    texts = [" ".join(chance.choices([*vocabulary, "owl"], k=chance.randint(0, 60))) for _ in range(20)]
    texts += [f"owl {stories[-1]} owl", stories[3]]
    assert [(each.words, each.nearest) for each in find_copies(texts, stories)] == [
        plainly(text, stories) for text in texts
    ]


def test_without_stories_nothing_is_copied() -> None:
    assert [(each.words, each.nearest) for each in find_copies(["A cat ran."], [])] == [(0, 0)]
    assert find_copies([], [TRAINED]) == []
