"""Words encoded once have the ids of the whole text, and every text comes back."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, pre_tokenizers

from smalltale.tokens.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from smalltale.tokens.words import PATTERNS_THAT_CUT, MarkInside, WordEncoder, cuts_before_spaces

NASTY = [
    "",
    " ",
    "  ",
    "\n",
    "a  b",
    "a   b",
    " a",
    "a ",
    "a \n\n b",
    "\n a",
    "a\u00a0 b\u00a0",
    "a\u3000 b\u2028 c",
    "\x00\x01 \x1f a\x1c b",
    "don't 'Tis ‘x’ isn’t I'M",
    "ABCdef 12345",
    "日本 語 é e\u0301 \u0301",
    "🙂 👨‍👩‍👧",
    "x<|padding|>y",
]
PIECES = st.sampled_from(
    [" ", "  ", "\n", "\t ", "a", "The", "'s", "’", '"', "9", "é", "\u0301", "日", "\u00a0", "🙂", ". "]
)
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30), st.lists(PIECES, max_size=20).map("".join)
)


def encoded(encoder: WordEncoder, texts: list[str]) -> list[list[int]]:
    found = encoder.encode(pa.array(texts, pa.string()))
    stories = np.split(found.tokens, found.ends)
    assert len(stories.pop()) == 0
    assert all(each[-1] == encoder.tokenizer.end_id for each in stories)
    return [each[:-1].tolist() for each in stories]


def test_white_space_of_every_kind_has_the_ids_of_the_whole_text(tokenizer: Tokenizer) -> None:
    encoder = WordEncoder(tokenizer)
    assert encoder.by_word
    assert encoded(encoder, NASTY) == [tokenizer.encode(text) for text in NASTY]
    assert encoded(encoder, NASTY[::-1]) == [tokenizer.encode(text) for text in NASTY[::-1]]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(TEXTS, min_size=1, max_size=20))
def test_any_texts_have_the_ids_of_the_whole_and_come_back(tokenizer: Tokenizer, texts: list[str]) -> None:
    found = encoded(WordEncoder(tokenizer), texts)
    assert found == [tokenizer.encode(text) for text in texts]
    assert [tokenizer.decode(ids) for ids in found] == texts


def test_a_full_cache_is_emptied_and_changes_no_id(
    tokenizer: Tokenizer, fable: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smalltale.tokens.words.MOST_WORDS", 50)
    encoder = WordEncoder(tokenizer)
    for start in range(0, 100, 10):
        texts = fable[start : start + 10]
        assert encoded(encoder, texts) == [tokenizer.encode(text) for text in texts]


def test_a_slice_of_an_array_is_encoded_alone(tokenizer: Tokenizer, fable: list[str]) -> None:
    found = WordEncoder(tokenizer).encode(pa.array(fable).slice(7, 5))
    alone = WordEncoder(tokenizer).encode(pa.array(fable[7:12]))
    assert np.array_equal(found.tokens, alone.tokens)
    assert np.array_equal(found.ends, alone.ends)


def test_the_mark_inside_a_story_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(MarkInside, match="split the text at its marks"):
        WordEncoder(tokenizer).encode(pa.array(["once", "upon a<|endoftext|>time"]))


@pytest.mark.parametrize("kind", ["unigram", "wordpiece"])
def test_the_other_models_go_word_by_word_too(kind: str, fable: list[str]) -> None:
    other = train_tokenizer(fable, TokenizerConfig(vocabulary=400, kind=kind))  # type: ignore[arg-type]
    texts = NASTY + fable[:20]
    assert WordEncoder(other).by_word
    assert encoded(WordEncoder(other), texts) == [other.encode(text) for text in texts]
    assert [other.decode(other.encode(text)) for text in texts] == texts


def bpe_with(pattern: str, texts: list[str]) -> Tokenizer:
    """A byte-level BPE that cuts texts by a pattern."""
    engine = tokenizers.Tokenizer(tokenizers.models.BPE())
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    engine.decoder = decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|endoftext|>", "<|padding|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    engine.train_from_iterator(texts, trainer)
    return Tokenizer(engine)


@pytest.mark.parametrize("pattern", sorted(PATTERNS_THAT_CUT))
def test_every_known_pattern_goes_word_by_word_with_the_ids_of_the_whole(
    pattern: str, fable: list[str]
) -> None:
    # White space and breaks are frequent, so that merges of them are learned.
    chance = random.Random(0)
    strange = ["".join(chance.choices([*" \n\t.'9aB", "  ", " \n", "\u00a0", "é"], k=30)) for _ in range(500)]
    encoder = WordEncoder(bpe_with(pattern, strange + fable[:50]))
    assert encoder.by_word
    texts = NASTY + strange
    assert encoded(encoder, texts) == [encoder.tokenizer.encode(text) for text in texts]


def test_a_tokenizer_that_does_not_cut_at_spaces_goes_the_plain_way(fable: list[str]) -> None:
    encoder = WordEncoder(bpe_with(r"\w+ \w+", fable))
    assert not encoder.by_word
    texts = NASTY + fable[:5]
    assert encoded(encoder, texts) == [encoder.tokenizer.encode(text) for text in texts]


def test_an_added_token_with_a_space_in_it_goes_the_plain_way(tokenizer: Tokenizer) -> None:
    engine = tokenizers.Tokenizer.from_str(tokenizer.engine.to_str())
    assert cuts_before_spaces(engine.to_str())
    engine.add_tokens(["once upon"])
    assert not cuts_before_spaces(engine.to_str())
