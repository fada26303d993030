"""Duplicates, near-duplicates and leaks."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smalltale.corpus.dedupe import DUPLICATE, KEPT, LEAK, NEAR_DUPLICATE, judge, leaks_of, sketch
from smalltale.corpus.fable import stories
from smalltale.corpus.shingles import hash_words, story_keys


def verdicts(texts: list[str], held_out: int = 0, threshold: float = 0.8) -> tuple[list[int], list[int]]:
    words = hash_words(texts)
    lengths = np.array([len(text) for text in texts], np.int64)
    held = np.arange(len(texts)) < held_out
    made = judge(story_keys(words), lengths, held, np.arange(len(texts)), sketch(words), threshold)
    return made.code.tolist(), made.winner.tolist()


def test_the_longest_of_exact_copies_stays_and_the_first_of_equals() -> None:
    a, b, c = stories(1, 3)
    code, winner = verdicts([a, b, a + "\n\n", c, b])
    assert code == [DUPLICATE, KEPT, KEPT, KEPT, DUPLICATE]
    assert winner == [2, 1, 2, 3, 1]


def test_a_near_copy_goes_and_the_longer_one_stays() -> None:
    a, b = stories(2, 2)
    longer = a + " And that was that."
    code, winner = verdicts([a, b, longer])
    assert (code, winner) == ([NEAR_DUPLICATE, KEPT, KEPT], [2, 1, 2])


def test_a_held_out_story_is_never_dropped_and_its_copies_are_leaks() -> None:
    a, b, c = stories(3, 3)
    code, winner = verdicts([a, a, a + " The sun went down.", b, c], held_out=2)
    assert code == [KEPT, KEPT, LEAK, KEPT, KEPT]
    assert winner[2] in (0, 1)


def test_stories_too_short_for_a_shingle_are_no_near_copies() -> None:
    assert verdicts(["one two", "three four", "five"])[0] == [KEPT] * 3


def test_nothing_is_judged_of_nothing() -> None:
    assert verdicts([]) == ([], [])


def edited(text: str, share: float, chance: random.Random) -> str:
    """`text` with words replaced so that about `share` of its 5-word shingles stay."""
    words = text.split()
    places = list(range(len(words)))
    chance.shuffle(places)
    touched: set[int] = set()
    shingles = len(words) - 4
    for place in places:
        more = touched | set(range(max(0, place - 4), min(shingles, place + 1)))
        left = shingles - len(more)
        if left / (2 * shingles - left) < share:
            continue
        touched, words[place] = more, f"zq{chance.randrange(10**9)}"
    return " ".join(words)


@pytest.mark.parametrize(
    ("overlap", "low", "high"), [(0.95, 1.0, 1.0), (0.9, 0.97, 1.0), (0.7, 0.0, 0.1), (0.5, 0.0, 0.0)]
)
def test_near_copies_are_found_by_their_overlap(overlap: float, low: float, high: float) -> None:
    chance = random.Random(1)
    originals = list(stories(4, 300))
    copies = [edited(text, overlap, chance) for text in originals]
    code, _ = verdicts(originals + copies)
    found = sum(each == NEAR_DUPLICATE for each in code) / len(originals)
    assert low <= found <= high


TEXTS = list(stories(5, 40))
CLEAN = list(stories(6, 40))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_planted_leak_is_found_and_nothing_else(data: st.DataObject) -> None:
    length = data.draw(st.integers(8, 60), "length")
    leaks = leaks_of(TEXTS, length)
    batch = list(CLEAN)
    planted = set()
    for _ in range(data.draw(st.integers(0, 5), "how many")):
        number, owner = data.draw(st.integers(0, 39), "where"), data.draw(st.integers(0, 39), "what")
        words = TEXTS[owner].split()
        start = data.draw(st.integers(0, max(0, len(words) - 2 * length)), "start")
        run = " ".join(
            words[start : start + 2 * length]
        )  # hyphens and apostrophes only ever make more words of it
        if data.draw(st.booleans(), "shouted"):
            run = run.upper().replace(" ", "\n")
        cut = data.draw(st.integers(0, len(batch[number].split())), "cut")
        own = batch[number].split()
        batch[number] = " ".join([*own[:cut], run, *own[cut:]])
        planted.add(number)
    found = leaks.find(hash_words(batch))
    assert planted <= set(found)
    if length >= 30:
        assert set(found) == planted


def test_a_whole_short_prompt_is_looked_for_and_a_tiny_one_is_not() -> None:
    prompt = "Tom had a red boat that could talk, but only when the moon was up and"
    leaks = leaks_of([prompt, "Once upon a time"], 30)
    found = leaks.find(
        hash_words([prompt + " nobody heard.", "Once upon a time there was a cat.", "He had a red boat."])
    )
    assert found == {0: 0}


def test_a_run_across_two_stories_is_no_leak() -> None:
    text = " ".join(f"word{i}" for i in range(40))
    halves = [" ".join(f"word{i}" for i in range(20)), " ".join(f"word{i}" for i in range(20, 40))]
    assert leaks_of([text], 30).find(hash_words(halves)) == {}


def test_leaks_read_back_as_saved(tmp_path: Path) -> None:
    leaks = leaks_of([*TEXTS, "A prompt of thirteen words or a few more that is not a story yet"], 30)
    with (tmp_path / "leaks.npz").open("wb") as out:
        leaks.save(out)
    again = type(leaks).load(tmp_path / "leaks.npz")
    batch = hash_words([*CLEAN, *TEXTS])
    assert again.find(batch) == leaks.find(batch)
    assert len(leaks.find(batch)) == len(TEXTS)
