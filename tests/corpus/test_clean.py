"""Cleaning rules: keep, fix or drop a story."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smalltale.corpus.document import SourceDocument
from smalltale.corpus.fable.generator import generate_stories
from smalltale.corpus.steps.clean import (
    DROP_REASONS,
    FIXES,
    clean_story,
    fix_closing_quote,
    fix_mojibake,
    fix_quotes,
)
from smalltale.files import END_OF_STORY

BODY = "She was happy and went to the park with her mom. They saw a big dog that ran to them and it was very kind."
STORY = f"Once there was a girl named Lily. {BODY} In the end they all went home to play."


def clean(text: str, minimum_words: int = 30) -> SourceDocument:
    return clean_story(SourceDocument(text, "story"), minimum_words)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n ", "empty"),
        ("A cat sat.", "very short"),
        (STORY + "\0", "binary"),
        (STORY * 200, "very long"),
        (STORY.replace("Lily", "L\ufffdly"), "lost characters"),
        (STORY + " <a href='x'>See more</a>.", "html"),
        (STORY + " See www.example.com.", "link"),
        (STORY + " print({x}).", "code"),
        (STORY + "\nimport numpy.\nimport os\nYes.", "code"),
        (STORY[:-1], "truncated"),
        (STORY + " The End", "truncated"),
        (STORY + ' She said, "', "truncated"),
        (STORY + " «Yes.»", "truncated"),
        ("and then " + STORY, "beginning cut off"),
        (", " + STORY, "beginning cut off"),
        ("Words: dog, park, kind\n" + STORY, "prompt echo"),
        ("Features: Dialogue\nStory:\n" + STORY, "prompt echo"),
        ("Sure! Here is a short story. " + STORY, "prompt echo"),
        ("Write a short story about a dog. " + STORY, "prompt echo"),
        ("As an AI language model, I have no dog. " + STORY, "refusal"),
        ("I'm sorry, but I cannot write that story. " + STORY, "refusal"),
        (STORY + " 12 345 678 901 234 567 890.", "digits"),
        ("Érase una vez una niña llamada Lucía que vivía en una casa muy bonita cerca del bosque con su madre y su padre. " * 3, "not English"),
        (STORY + " Il était une fois une petite fille qui aimait beaucoup jouer dans le jardin avec son chien noir et blanc tous les jours." * 3, "not English"),
        (STORY + " Привет.", "odd signs"),
    ],
)  # fmt: skip
def test_a_story_is_dropped_with_its_reason(text: str, reason: str) -> None:
    assert clean(text).reason == reason
    assert reason in DROP_REASONS


@pytest.mark.parametrize(
    ("before", "after", "fix"),
    [
        ("\u201cHi\u201d \u2018there\u2019 ", "\"Hi\" 'there' ", "quotes"),
        ('""Hi"" ', '"Hi" ', "quotes"),
        ("He \u00e2\u20ac\u0153ran\u00e2\u20ac\u009d ", 'He "ran" ', "quotes"),
        ('He said, "Yes!\u00e2\u20ac\n\nMom ', 'He said, "Yes!"\n\nMom ', "closing quote"),
        ('"Cool!\u00e2\u20ac said Al. ', '"Cool!" said Al. ', "closing quote"),
        ("It\u00e2\u20ac\u2122s Zo\u00c3\u00ab. ", "It's Zoë. ", "mojibake"),
        ("One\u00e2\u20ac\u201dtwo. ", "One—two. ", "mojibake"),
        ("Don\ufffdt go. ", "Don't go. ", "mojibake"),
        ("A  b \t c \r\nd\n\n\n\ne. ", "A b c\nd\n\ne. ", "white space"),
        ("A\u00a0b\u2009c. ", "A b c. ", "white space"),
        ("Ha\u200bppy\u00ad. ", "Happy. ", "control characters"),
        ("Tom &amp; Sue<br>ran. ", "Tom & Sue\nran. ", "entities"),
        ("A **big** dog and _he_ ran. ", "A big dog and he ran. ", "markdown"),
        ("A \U0001f600dog ﬁne Ｔom. ", "A dog fine Tom. ", "signs"),
    ],
)
def test_a_story_is_fixed(before: str, after: str, fix: str) -> None:
    cleaned = clean(before + STORY)
    assert (cleaned.text, cleaned.reason) == (after + STORY, None)
    assert fix in cleaned.fixes
    assert fix in FIXES


@pytest.mark.parametrize(
    "ending", [" The end.", "\nThe End!", "\n\nTHE END.", '\n"The end."', "\n*The End.*", "\n(The end.)"]
)
def test_a_closing_the_end_is_removed(ending: str) -> None:
    assert clean(STORY + ending).text == STORY
    assert clean(STORY + " It was a happy time in the end.").text.endswith(" in the end.")


def test_a_lower_case_first_letter_is_capitalized() -> None:
    assert clean("once" + STORY[4:]).text == STORY


@pytest.mark.parametrize(
    "text",
    [
        *generate_stories(3, 50),
        STORY + ' "Can I help?" said the ant. "I cannot fly," said the bird. "Sorry, I can\'t," he said.',
    ],
)
def test_a_clean_story_is_not_changed(text: str) -> None:
    assert clean(text) == SourceDocument(text, "story")


@given(st.text(max_size=400), st.booleans())
@example("»\ud7fc»", True)
@example("‘‘so’’", True)
def test_any_text_gives_a_known_reason_or_a_text_that_cleaning_again_does_not_change(
    text: str, is_inside: bool
) -> None:
    cleaned = clean(f"{STORY} {text} {STORY}" if is_inside else text, minimum_words=1)
    assert cleaned.reason is None or cleaned.reason in DROP_REASONS
    if cleaned.reason is None:
        assert clean(cleaned.text, minimum_words=1) == SourceDocument(cleaned.text, "story")


def test_the_mojibake_of_tinystories_v1_is_fixed_and_no_quote_is_doubled(shared_data: Path) -> None:
    raw = (shared_data / "TinyStories-valid.V1.head.txt").read_text(encoding="utf-8")
    assert raw.count("â€") == 234
    fixed = fix_quotes(fix_mojibake(fix_closing_quote(raw)))
    assert "â€" not in fixed
    assert "†" not in fixed
    assert '""' not in fixed
    for match in re.finditer("([ -~]{2,12})â€(?=[ \\n.])", raw):  # a closing quote that lost its last byte
        assert fix_quotes(match[1]) + '"' in fixed


def test_truncated_stories_of_the_tinystories_sample_are_dropped_and_nearly_all_others_kept(
    shared_data: Path,
) -> None:
    raw = (shared_data / "TinyStories-train.sample.txt").read_text(encoding="utf-8")
    cleaned = [clean(story) for story in raw.split(END_OF_STORY) if story.strip()]
    assert len(cleaned) == 11_751
    assert {story.reason for story in cleaned[-50:]} == {"truncated"}
    assert sum(story.reason is not None for story in cleaned[:-50]) <= 5
