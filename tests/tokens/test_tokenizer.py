"""Tokenizers: deterministic training, lossless encoding, errors for invalid settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
import tokenizers

from smalltale.errors import FileProblem, RecipeError
from smalltale.tokens.tokenizer import (
    ALPHABET,
    STORY_PATTERN,
    Tokenizer,
    TokenizerConfig,
    sample_stories,
    train_tokenizer,
)

KINDS: tuple[Literal["bpe", "unigram", "wordpiece"], ...] = ("bpe", "unigram", "wordpiece")


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_stories_give_the_same_tokenizer_of_the_requested_size(
    kind: Literal["bpe", "unigram", "wordpiece"], fable: list[str], tmp_path: Path
) -> None:
    config = TokenizerConfig(vocabulary=600, kind=kind)
    first, second = train_tokenizer(iter(fable), config), train_tokenizer(iter(fable), config)
    assert first.hash == second.hash
    assert first.vocabulary_size == 600
    assert first.end_id != first.pad_id
    assert set(ALPHABET) <= set(first.engine.get_vocab())
    first.save(tmp_path, {"seconds": 0})
    loaded = Tokenizer.load(tmp_path)
    assert loaded.hash == first.hash
    assert loaded.encode_batch(fable[:20]) == [first.encode(text) for text in fable[:20]]


@pytest.mark.parametrize("kind", KINDS)
def test_every_byte_and_a_word_of_any_length_are_decoded(
    kind: Literal["bpe", "unigram", "wordpiece"], fable: list[str]
) -> None:
    tokenizer = train_tokenizer(fable, TokenizerConfig(vocabulary=300, kind=kind))
    text = "".join(map(chr, range(0x250))) + "x" * 500 + "\U0010ffff"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert max(tokenizer.encode(text)) < tokenizer.vocabulary_size


def test_special_tokens_in_a_text_are_encoded_as_text(tokenizer: Tokenizer) -> None:
    text = "one<|endoftext|>two<|padding|>"
    ids = tokenizer.encode(text)
    assert not {tokenizer.end_id, tokenizer.pad_id} & set(ids)
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Tom didn't go.", ["Tom", " didn", "'t", " go", "."]),
        ("He’s here", ["He", "’s", " here"]),
        ('She said, "Hello!"', ["She", " said", ",", ' "', "Hello", '!"']),
        ("'Tis 1990.\n\nThe", ["'", "Tis", " 1", "9", "9", "0", ".", "\n\n", "The"]),
        ("LOUD McTom", ["LOUD", " Mc", "Tom"]),
    ],
)
def test_the_pattern_splits_stories_into_words(text: str, pieces: list[str]) -> None:
    splitter = tokenizers.pre_tokenizers.Split(tokenizers.Regex(STORY_PATTERN), "isolated")
    assert [piece for piece, _ in splitter.pre_tokenize_str(text)] == pieces


def test_no_token_crosses_stories() -> None:
    tokenizer = train_tokenizer(["ab", "cd"] * 500, TokenizerConfig(vocabulary=400))
    assert not any("bc" in token for token in tokenizer.engine.get_vocab())


def test_a_sample_has_the_requested_size_and_keeps_the_order() -> None:
    texts = [f"{number:05d}" * 20 for number in range(2_000)]
    sampled = sample_stories(iter(texts), 50_000, seed=1)
    assert sampled == sorted(sampled)
    assert 40_000 < sum(map(len, sampled)) <= 60_000
    assert (
        sampled == sample_stories(iter(texts), 50_000, seed=1) != sample_stories(iter(texts), 50_000, seed=2)
    )
    assert sample_stories(iter(texts), 10**9, seed=1) == texts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocabulary": 257}, "smaller than the byte alphabet"),
        ({"kind": "word"}, "choose bpe, unigram or wordpiece"),
        ({"sample_megabytes": 0}, "at least 1"),
    ],
)
def test_an_invalid_config_is_an_error(changes: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        TokenizerConfig(**changes)  # type: ignore[arg-type]


def test_training_without_stories_is_an_error() -> None:
    with pytest.raises(FileProblem, match="no story"):
        train_tokenizer([], TokenizerConfig())


def test_a_tokenizer_without_an_end_token_is_an_error(tokenizer_folder: Path, tmp_path: Path) -> None:
    settings = json.loads((tokenizer_folder / "tokenizer.json").read_text())
    settings["added_tokens"] = settings["added_tokens"][1:]
    del settings["model"]["vocab"]["<|endoftext|>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(FileProblem, match=r"has no <\|endoftext\|> token"):
        Tokenizer.load(tmp_path)


def test_the_same_token_for_end_and_padding_is_an_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(FileProblem, match="never learn to stop"):
        Tokenizer(tokenizer.engine, padding_token="<|endoftext|>")


def test_a_broken_tokenizer_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(FileProblem, match="is not a tokenizer"):
        Tokenizer.load(tmp_path)
    with pytest.raises(FileProblem, match="does not exist"):
        Tokenizer.load(tmp_path / "missing")
