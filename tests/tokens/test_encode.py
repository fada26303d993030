"""Encoding a corpus: lossless, the same bytes for any number of threads, resumable."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

import smalltale.tokens.encode as encode_module
from smalltale.errors import FileProblem, SmalltaleError
from smalltale.files import read_json, sha256_file
from smalltale.tokens.encode import encode_corpus
from smalltale.tokens.token_folder import read_tokens
from smalltale.tokens.tokenizer import Tokenizer


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(folder.glob("*.bin"))}


def test_every_story_decodes_from_the_token_folder(
    fable: list[str], tokenizer: Tokenizer, tokenizer_folder: Path, write_corpus: Any, tmp_path: Path
) -> None:
    summary = encode_corpus(write_corpus(fable, fable[:7]), tokenizer_folder, tmp_path / "out")
    data = read_tokens(tmp_path / "out")
    for tokens, offsets, expected in (
        (data.train, data.train_offsets, fable),
        (data.val, data.val_offsets, fable[:7]),
    ):
        stories = [tokens[a:b] for a, b in pairwise(offsets.tolist())]
        assert [tokenizer.decode(story[:-1].tolist()) for story in stories] == expected
        assert all(story[-1] == tokenizer.end_id for story in stories)
    assert summary.stories == len(fable) + 7
    assert summary.tokens == len(data.train) + len(data.val)
    assert summary.bytes == sum(len(text.encode()) for text in fable + fable[:7])
    assert data.meta["tokenizer_hash"] == tokenizer.hash
    assert data.meta["counts"]["train_stories"] == len(fable)


def test_the_bytes_do_not_depend_on_threads_or_batch_size(
    fable: list[str],
    tokenizer_folder: Path,
    write_corpus: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    corpus = write_corpus(fable)
    encode_corpus(corpus, tokenizer_folder, tmp_path / "one", threads=1)
    monkeypatch.setattr(encode_module, "BATCH_BYTES", 3_000)
    encode_corpus(corpus, tokenizer_folder, tmp_path / "seven", threads=7)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "seven")


def test_a_stopped_run_resumes_and_writes_the_same_bytes(
    fable: list[str],
    tokenizer_folder: Path,
    write_corpus: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    corpus = write_corpus(fable)
    encode_corpus(corpus, tokenizer_folder, tmp_path / "expected")
    monkeypatch.setattr(encode_module, "BATCH_BYTES", 10_000)
    monkeypatch.setattr(encode_module, "SAVE_SECONDS", 0.0)
    encode_batch, encoded_from = encode_module.encode_batch, []

    def encode_until_200(encoder: Any, stories: Any, first: int, corpus_name: str) -> Any:
        encoded_from.append(first)
        if first > 200:
            raise KeyboardInterrupt
        return encode_batch(encoder, stories, first, corpus_name)

    monkeypatch.setattr(encode_module, "encode_batch", encode_until_200)
    with pytest.raises(KeyboardInterrupt):
        encode_corpus(corpus, tokenizer_folder, tmp_path / "out", threads=1)
    assert not (tmp_path / "out").exists()
    # Bytes written after the journal are truncated.
    with (tmp_path / ".out.encoding" / "train.bin").open("ab") as torn:
        torn.write(b"\x07\x07\x07")
    before = len(encoded_from)

    def record_and_encode(encoder: Any, stories: Any, first: int, corpus_name: str) -> Any:
        encoded_from.append(first)
        return encode_batch(encoder, stories, first, corpus_name)

    monkeypatch.setattr(encode_module, "encode_batch", record_and_encode)
    encode_corpus(corpus, tokenizer_folder, tmp_path / "out", threads=1)
    assert min(encoded_from[before:-1]) > 100
    assert hashes(tmp_path / "out") == hashes(tmp_path / "expected")
    assert not (tmp_path / ".out.encoding").exists()


def test_a_run_stopped_on_another_corpus_starts_over(
    fable: list[str], tokenizer_folder: Path, write_corpus: Any, tmp_path: Path
) -> None:
    work = tmp_path / ".out.encoding"
    work.mkdir()
    (work / "journal.json").write_text('{"inputs": {"corpus": "other"}}')
    (work / "train.bin").write_bytes(b"old")
    encode_corpus(write_corpus(fable[:20]), tokenizer_folder, tmp_path / "out")
    assert len(read_tokens(tmp_path / "out").train_offsets) == 21


def test_a_story_with_the_end_mark_inside_is_an_error_with_its_number(
    fable: list[str], tokenizer_folder: Path, write_corpus: Any, tmp_path: Path
) -> None:
    corpus = write_corpus([*fable[:17], "One.<|endoftext|>Two."])
    with pytest.raises(SmalltaleError, match=r"story 17 of .*\(train\) has <\|endoftext\|> inside"):
        encode_corpus(corpus, tokenizer_folder, tmp_path / "out")


def test_a_tokenizer_that_loses_text_is_an_error(
    fable: list[str], tokenizer: Tokenizer, write_corpus: Any, tmp_path: Path
) -> None:
    engine = tokenizers.Tokenizer.from_str(tokenizer.engine.to_str())
    engine.normalizer = tokenizers.normalizers.Lowercase()
    Tokenizer(engine).save(tmp_path / "lower", {"seconds": 0})
    with pytest.raises(SmalltaleError, match="does not decode story 0"):
        encode_corpus(write_corpus(fable), tmp_path / "lower", tmp_path / "out")


def test_more_than_65536_ids_are_written_in_32_bits(
    fable: list[str], tokenizer: Tokenizer, write_corpus: Any, tmp_path: Path
) -> None:
    engine = tokenizers.Tokenizer.from_str(tokenizer.engine.to_str())
    engine.add_tokens([f"<w{number}>" for number in range(70_000)])
    wide = Tokenizer(engine)
    wide.save(tmp_path / "wide", {"seconds": 0})
    encode_corpus(write_corpus(["a<w69999>b"]), tmp_path / "wide", tmp_path / "out")
    data = read_tokens(tmp_path / "out")
    assert data.train.dtype == np.uint32
    assert wide.decode(data.train[:-1].tolist()) == "a<w69999>b"
    assert data.train.max() == wide.vocabulary_size - 1


def test_a_truncated_token_file_is_an_error(
    fable: list[str], tokenizer_folder: Path, write_corpus: Any, tmp_path: Path
) -> None:
    encode_corpus(write_corpus(fable[:50]), tokenizer_folder, tmp_path / "out")
    path = tmp_path / "out" / "train.bin"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(FileProblem, match="is truncated"):
        read_tokens(tmp_path / "out")


def test_a_folder_without_tokens_is_an_error(write_corpus: Any, fable: list[str], tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match=re.escape("'corpus', not tokens")):
        read_tokens(write_corpus(fable[:3]))
    with pytest.raises(FileProblem, match="does not exist"):
        read_tokens(tmp_path / "missing")


def test_a_folder_of_something_else_is_not_overwritten(
    fable: list[str], tokenizer_folder: Path, write_corpus: Any, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(FileProblem, match="not written by smalltale"):
        encode_corpus(write_corpus(fable[:5]), tokenizer_folder, tmp_path / "mine")


def test_meta_json_describes_the_tokens(
    fable: list[str], tokenizer: Tokenizer, tokenizer_folder: Path, write_corpus: Any, tmp_path: Path
) -> None:
    encode_corpus(write_corpus(fable[:5]), tokenizer_folder, tmp_path / "out", recipe={"name": "test"})
    meta = read_json(tmp_path / "out" / "meta.json")
    assert (meta["kind"], meta["format"], meta["dtype"], meta["recipe"]) == (
        "tokens",
        1,
        "uint16",
        {"name": "test"},
    )
    assert (meta["vocabulary"], meta["end_id"], meta["pad_id"]) == (512, tokenizer.end_id, tokenizer.pad_id)
    assert meta["hashes"]["train"] == sha256_file(tmp_path / "out" / "train.bin")
