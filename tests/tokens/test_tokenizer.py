"""Tokenizers are trained the same every time, lose nothing, and refuse what cannot work."""

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
    sample,
    train_tokenizer,
)

KINDS: tuple[Literal["bpe", "unigram", "wordpiece"], ...] = ("bpe", "unigram", "wordpiece")


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_stories_give_the_same_tokenizer_of_the_size_asked(
    kind: Literal["bpe", "unigram", "wordpiece"], fable: list[str], tmp_path: Path
) -> None:
    config = TokenizerConfig(vocabulary=600, kind=kind)
    first, second = train_tokenizer(iter(fable), config), train_tokenizer(iter(fable), config)
    assert first.hash == second.hash
    assert first.vocabulary == 600
    assert first.end_id != first.pad_id
    assert set(ALPHABET) <= set(first.engine.get_vocab())
    first.save(tmp_path, {"seconds": 0})
    loaded = Tokenizer.load(tmp_path)
    assert loaded.hash == first.hash
    assert loaded.encode_batch(fable[:20]) == [first.encode(text) for text in fable[:20]]


@pytest.mark.parametrize("kind", KINDS)
def test_every_byte_and_a_word_of_any_length_come_back(
    kind: Literal["bpe", "unigram", "wordpiece"], fable: list[str]
) -> None:
    tokenizer = train_tokenizer(fable, TokenizerConfig(vocabulary=300, kind=kind))
    text = "".join(map(chr, range(0x250))) + "x" * 500 + "\U0010ffff"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert max(tokenizer.encode(text)) < tokenizer.vocabulary


def test_marks_in_a_text_are_text(tokenizer: Tokenizer) -> None:
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
def test_the_pattern_cuts_stories_where_words_change(text: str, pieces: list[str]) -> None:
    cut = tokenizers.pre_tokenizers.Split(tokenizers.Regex(STORY_PATTERN), "isolated")
    assert [piece for piece, _ in cut.pre_tokenize_str(text)] == pieces


def test_no_token_reaches_across_stories() -> None:
    tokenizer = train_tokenizer(["ab", "cd"] * 500, TokenizerConfig(vocabulary=400))
    assert not any("bc" in token for token in tokenizer.engine.get_vocab())


def test_a_sample_is_of_the_size_asked_and_in_order() -> None:
    texts = [f"{number:05d}" * 20 for number in range(2_000)]
    chosen = sample(iter(texts), 50_000, seed=1)
    assert chosen == sorted(chosen)
    assert 40_000 < sum(map(len, chosen)) <= 60_000
    assert chosen == sample(iter(texts), 50_000, seed=1) != sample(iter(texts), 50_000, seed=2)
    assert sample(iter(texts), 10**9, seed=1) == texts


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"vocabulary": 257}, "smaller than the byte alphabet"),
        ({"kind": "word"}, "choose bpe, unigram or wordpiece"),
        ({"sample_megabytes": 0}, "at least 1"),
    ],
)
def test_a_config_that_cannot_work_is_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        TokenizerConfig(**changes)  # type: ignore[arg-type]


def test_no_story_is_no_tokenizer() -> None:
    with pytest.raises(FileProblem, match="no story"):
        train_tokenizer([], TokenizerConfig())


def test_a_tokenizer_without_an_end_token_is_refused(tokenizer_folder: Path, tmp_path: Path) -> None:
    told = json.loads((tokenizer_folder / "tokenizer.json").read_text())
    told["added_tokens"] = told["added_tokens"][1:]
    del told["model"]["vocab"]["<|endoftext|>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(told))
    with pytest.raises(FileProblem, match=r"has no <\|endoftext\|> token"):
        Tokenizer.load(tmp_path)


def test_one_token_for_end_and_padding_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(FileProblem, match="never learn to stop"):
        Tokenizer(tokenizer.engine, padding_token="<|endoftext|>")


def test_a_broken_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(FileProblem, match="is not a tokenizer"):
        Tokenizer.load(tmp_path)
    with pytest.raises(FileProblem, match="does not exist"):
        Tokenizer.load(tmp_path / "nowhere")
