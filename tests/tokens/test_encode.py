"""A corpus becomes a token folder: lossless, the same for any number of threads, and taken up where it was stopped."""

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
from smalltale.files import read_json, sha256_of
from smalltale.tokens.encode import encode_corpus
from smalltale.tokens.shards import read_tokens
from smalltale.tokens.tokenizer import Tokenizer


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in sorted(folder.glob("*.bin"))}


def test_every_story_comes_back_from_the_token_folder(
    fable: list[str], tokenizer: Tokenizer, tokenizer_folder: Path, write_corpus: Any, tmp_path: Path
) -> None:
    summary = encode_corpus(write_corpus(fable, fable[:7]), tokenizer_folder, tmp_path / "out")
    data = read_tokens(tmp_path / "out")
    for tokens, offsets, told in (
        (data.train, data.train_offsets, fable),
        (data.val, data.val_offsets, fable[:7]),
    ):
        stories = [tokens[a:b] for a, b in pairwise(offsets.tolist())]
        assert [tokenizer.decode(each[:-1].tolist()) for each in stories] == told
        assert all(each[-1] == tokenizer.end_id for each in stories)
    assert summary.stories == len(fable) + 7
    assert summary.tokens == len(data.train) + len(data.val)
    assert summary.bytes == sum(len(text.encode()) for text in fable + fable[:7])
    assert data.meta["tokenizer_hash"] == tokenizer.hash
    assert data.meta["counts"]["train_stories"] == len(fable)


def test_the_bytes_are_the_same_for_any_number_of_threads_and_size_of_piece(
    fable: list[str],
    tokenizer_folder: Path,
    write_corpus: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    corpus = write_corpus(fable)
    encode_corpus(corpus, tokenizer_folder, tmp_path / "one", threads=1)
    monkeypatch.setattr(encode_module, "PIECE_BYTES", 3_000)
    encode_corpus(corpus, tokenizer_folder, tmp_path / "seven", threads=7)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "seven")


def test_a_stopped_run_goes_on_and_gives_the_same_bytes(
    fable: list[str],
    tokenizer_folder: Path,
    write_corpus: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    corpus = write_corpus(fable)
    encode_corpus(corpus, tokenizer_folder, tmp_path / "whole")
    monkeypatch.setattr(encode_module, "PIECE_BYTES", 10_000)
    monkeypatch.setattr(encode_module, "KEPT_SECONDS", 0.0)
    real, seen = encode_module.encode_part, []

    def stops(encoder: Any, stories: Any, first: int, where: str) -> Any:
        seen.append(first)
        if first > 200:
            raise KeyboardInterrupt
        return real(encoder, stories, first, where)

    monkeypatch.setattr(encode_module, "encode_part", stops)
    with pytest.raises(KeyboardInterrupt):
        encode_corpus(corpus, tokenizer_folder, tmp_path / "out", threads=1)
    assert not (tmp_path / "out").exists()
    # What was written after the journal is cut off again.
    with (tmp_path / ".out.encoding" / "train.bin").open("ab") as torn:
        torn.write(b"\x07\x07\x07")
    before = len(seen)
    monkeypatch.setattr(encode_module, "encode_part", lambda *given: seen.append(given[2]) or real(*given))
    encode_corpus(corpus, tokenizer_folder, tmp_path / "out", threads=1)
    assert min(seen[before:-1]) > 100
    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole")
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


def test_a_story_with_the_mark_inside_is_named(
    fable: list[str], tokenizer_folder: Path, write_corpus: Any, tmp_path: Path
) -> None:
    corpus = write_corpus([*fable[:17], "One.<|endoftext|>Two."])
    with pytest.raises(SmalltaleError, match=r"story 17 of .*\(train\) has <\|endoftext\|> inside"):
        encode_corpus(corpus, tokenizer_folder, tmp_path / "out")


def test_a_tokenizer_that_loses_text_is_refused(
    fable: list[str], tokenizer: Tokenizer, write_corpus: Any, tmp_path: Path
) -> None:
    engine = tokenizers.Tokenizer.from_str(tokenizer.engine.to_str())
    engine.normalizer = tokenizers.normalizers.Lowercase()
    Tokenizer(engine).save(tmp_path / "lower", {"seconds": 0})
    with pytest.raises(SmalltaleError, match="does not give story 0"):
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
    assert data.train.max() == wide.vocabulary - 1


def test_a_cut_token_file_is_refused(
    fable: list[str], tokenizer_folder: Path, write_corpus: Any, tmp_path: Path
) -> None:
    encode_corpus(write_corpus(fable[:50]), tokenizer_folder, tmp_path / "out")
    path = tmp_path / "out" / "train.bin"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(FileProblem, match="cut short"):
        read_tokens(tmp_path / "out")


def test_what_is_no_token_folder_is_refused(write_corpus: Any, fable: list[str], tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match=re.escape("'corpus', not tokens")):
        read_tokens(write_corpus(fable[:3]))
    with pytest.raises(FileProblem, match="does not exist"):
        read_tokens(tmp_path / "nowhere")


def test_a_folder_of_someone_else_is_left_alone(
    fable: list[str], tokenizer_folder: Path, write_corpus: Any, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(FileProblem, match="not written by smalltale"):
        encode_corpus(write_corpus(fable[:5]), tokenizer_folder, tmp_path / "mine")


def test_the_meta_file_says_what_the_tokens_are(
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
    assert meta["hashes"]["train"] == sha256_of(tmp_path / "out" / "train.bin")
