"""Encoding word by word gives the ids of the full text."""

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
from smalltale.tokens.word_encoder import (
    PATTERNS_SPLITTING_AT_SPACES,
    EndMarkInStory,
    WordEncoder,
    splits_before_spaces,
)

EDGE_CASES = [
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


def encode_texts(encoder: WordEncoder, texts: list[str]) -> list[list[int]]:
    encoded = encoder.encode(pa.array(texts, pa.string()))
    stories = np.split(encoded.tokens, encoded.ends)
    assert len(stories.pop()) == 0
    assert all(story[-1] == encoder.tokenizer.end_id for story in stories)
    return [story[:-1].tolist() for story in stories]


def test_white_space_of_every_kind_gives_the_ids_of_the_full_text(tokenizer: Tokenizer) -> None:
    encoder = WordEncoder(tokenizer)
    assert encoder.uses_words
    assert encode_texts(encoder, EDGE_CASES) == [tokenizer.encode(text) for text in EDGE_CASES]
    assert encode_texts(encoder, EDGE_CASES[::-1]) == [tokenizer.encode(text) for text in EDGE_CASES[::-1]]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(TEXTS, min_size=1, max_size=20))
def test_any_texts_give_the_ids_of_the_full_text_and_are_decoded(
    tokenizer: Tokenizer, texts: list[str]
) -> None:
    ids_by_text = encode_texts(WordEncoder(tokenizer), texts)
    assert ids_by_text == [tokenizer.encode(text) for text in texts]
    assert [tokenizer.decode(ids) for ids in ids_by_text] == texts


def test_clearing_a_full_cache_changes_no_id(
    tokenizer: Tokenizer, fable: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smalltale.tokens.word_encoder.MAX_CACHED_WORDS", 50)
    encoder = WordEncoder(tokenizer)
    for start in range(0, 100, 10):
        texts = fable[start : start + 10]
        assert encode_texts(encoder, texts) == [tokenizer.encode(text) for text in texts]


def test_a_slice_of_an_array_is_encoded_like_a_copy(tokenizer: Tokenizer, fable: list[str]) -> None:
    sliced = WordEncoder(tokenizer).encode(pa.array(fable).slice(7, 5))
    copied = WordEncoder(tokenizer).encode(pa.array(fable[7:12]))
    assert np.array_equal(sliced.tokens, copied.tokens)
    assert np.array_equal(sliced.ends, copied.ends)


def test_the_end_mark_inside_a_story_is_an_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(EndMarkInStory, match="split the text at its marks"):
        WordEncoder(tokenizer).encode(pa.array(["once", "upon a<|endoftext|>time"]))


@pytest.mark.parametrize("kind", ["unigram", "wordpiece"])
def test_unigram_and_wordpiece_are_encoded_word_by_word(kind: str, fable: list[str]) -> None:
    tokenizer = train_tokenizer(fable, TokenizerConfig(vocabulary=400, kind=kind))  # type: ignore[arg-type]
    texts = EDGE_CASES + fable[:20]
    assert WordEncoder(tokenizer).uses_words
    assert encode_texts(WordEncoder(tokenizer), texts) == [tokenizer.encode(text) for text in texts]
    assert [tokenizer.decode(tokenizer.encode(text)) for text in texts] == texts


def train_bpe(pattern: str, texts: list[str]) -> Tokenizer:
    """Train a byte-level BPE that splits texts with a pattern."""
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


@pytest.mark.parametrize("pattern", sorted(PATTERNS_SPLITTING_AT_SPACES))
def test_every_listed_pattern_is_encoded_word_by_word_with_the_ids_of_the_full_text(
    pattern: str, fable: list[str]
) -> None:
    # White space and breaks are frequent, so that merges of them are learned.
    chance = random.Random(0)
    random_texts = [
        "".join(chance.choices([*" \n\t.'9aB", "  ", " \n", "\u00a0", "é"], k=30)) for _ in range(500)
    ]
    encoder = WordEncoder(train_bpe(pattern, random_texts + fable[:50]))
    assert encoder.uses_words
    texts = EDGE_CASES + random_texts
    assert encode_texts(encoder, texts) == [encoder.tokenizer.encode(text) for text in texts]


def test_a_tokenizer_that_does_not_split_at_spaces_is_encoded_story_by_story(fable: list[str]) -> None:
    encoder = WordEncoder(train_bpe(r"\w+ \w+", fable))
    assert not encoder.uses_words
    texts = EDGE_CASES + fable[:5]
    assert encode_texts(encoder, texts) == [encoder.tokenizer.encode(text) for text in texts]


def test_an_added_token_with_a_space_prevents_encoding_word_by_word(tokenizer: Tokenizer) -> None:
    engine = tokenizers.Tokenizer.from_str(tokenizer.engine.to_str())
    assert splits_before_spaces(engine.to_str())
    engine.add_tokens(["once upon"])
    assert not splits_before_spaces(engine.to_str())
