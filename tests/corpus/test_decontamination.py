"""Leaks: held-out texts that occur in training stories."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from smalltale.corpus.fable.generator import generate_stories
from smalltale.corpus.hashing import hash_words
from smalltale.corpus.steps.decontamination import LeakIndex, build_leak_index, load_leak_index

TEXTS = list(generate_stories(5, 40))
CLEAN = list(generate_stories(6, 40))


def build_index(texts: list[str], length: int) -> LeakIndex:
    return build_leak_index(texts, [f"text {number}" for number in range(len(texts))], length)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_exactly_the_planted_leaks_are_found(data: st.DataObject) -> None:
    length = data.draw(st.integers(8, 60), "length")
    index = build_index(TEXTS, length)
    batch = list(CLEAN)
    planted = set()
    for _ in range(data.draw(st.integers(0, 5), "how many")):
        number, owner = data.draw(st.integers(0, 39), "story"), data.draw(st.integers(0, 39), "held-out text")
        words = TEXTS[owner].split()
        start = data.draw(st.integers(0, max(0, len(words) - 2 * length)), "start")
        run = " ".join(
            words[start : start + 2 * length]
        )  # hyphens and apostrophes split words further, so the run has at least `length` words
        if data.draw(st.booleans(), "upper case"):
            run = run.upper().replace(" ", "\n")
        cut = data.draw(st.integers(0, len(batch[number].split())), "cut")
        story = batch[number].split()
        batch[number] = " ".join([*story[:cut], run, *story[cut:]])
        planted.add(number)
    leaked = set(index.find(hash_words(batch)))
    assert planted <= leaked
    if length >= 30:
        assert leaked == planted


def test_a_short_prompt_is_searched_for_and_a_very_short_one_is_not() -> None:
    prompt = "Tom had a red boat that could talk, but only when the moon was up and"
    index = build_index([prompt, "Once upon a time"], 30)
    text_by_story = index.find(
        hash_words([prompt + " no one heard.", "Once upon a time there was a cat.", "He had a red boat."])
    )
    assert text_by_story == {0: 0}


def test_a_run_across_two_stories_is_not_a_leak() -> None:
    text = " ".join(f"word{i}" for i in range(40))
    halves = [" ".join(f"word{i}" for i in range(20)), " ".join(f"word{i}" for i in range(20, 40))]
    assert build_index([text], 30).find(hash_words(halves)) == {}


def test_a_saved_index_is_loaded_unchanged(tmp_path: Path) -> None:
    index = build_index([*TEXTS, "A prompt of thirteen words or a few more that is not a story yet"], 30)
    with (tmp_path / "leaks.npz").open("wb") as file:
        index.save(file)
    loaded = load_leak_index(tmp_path / "leaks.npz", modified_ns=0)
    batch = hash_words([*CLEAN, *TEXTS])
    assert loaded.find(batch) == index.find(batch)
    assert list(loaded.names) == list(index.names)
    assert len(index.find(batch)) == len(TEXTS)
