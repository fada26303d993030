"""Conversion of pre-trained tokenizers of every format keeps their ids."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import tokenizers

from smalltale.errors import FileProblem, SmalltaleError
from smalltale.tokens.convert import byte_letters, from_ranks, open_tokenizer, to_oniguruma
from smalltale.tokens.tokenizer import ALPHABET, Tokenizer


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def sentencepiece_model(
    model_type: int, pieces: list[tuple[str, float, int]], *, dummy_prefix: int = 0
) -> bytes:
    """Return a .model file that changes no text: no charsmap, spaces unchanged."""
    piece_fields = b"".join(
        field(1, field(1, text.encode()) + varint(2 << 3 | 5) + struct.pack("<f", score) + field(3, kind))
        for text, score, kind in pieces
    )
    return piece_fields + field(2, field(3, model_type)) + field(3, field(3, dummy_prefix) + field(4, 0))


SPECIAL = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
BYTES = [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
WORDS = [("▁", -1.0, 1), ("a", -2.0, 1), ("b", -2.1, 1), ("ab", -1.5, 1), ("▁ab", -1.2, 1)]


@pytest.mark.parametrize("model_type", [1, 2])
def test_a_sentencepiece_model_is_read_and_falls_back_to_bytes(model_type: int, tmp_path: Path) -> None:
    path = tmp_path / "small.model"
    path.write_bytes(sentencepiece_model(model_type, SPECIAL + BYTES + WORDS))
    tokenizer = open_tokenizer(str(path))
    ids = {text: number for number, (text, _, _) in enumerate(SPECIAL + BYTES + WORDS)}
    assert tokenizer.encode("ab ab") == [ids["ab"], ids["▁ab"]]
    assert tokenizer.encode("é") == [ids["<0xC3>"], ids["<0xA9>"]]
    assert (tokenizer.end_id, tokenizer.pad_id) == (ids["</s>"], len(ids))
    for text in ("ab  ab\n", "é 🙂 b a"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_dummy_prefix_is_added_before_every_text_and_removed_by_decoding(tmp_path: Path) -> None:
    path = tmp_path / "prefix.model"
    path.write_bytes(sentencepiece_model(1, SPECIAL + BYTES + WORDS, dummy_prefix=1))
    tokenizer = open_tokenizer(str(path))
    ids = {text: number for number, (text, _, _) in enumerate(SPECIAL + BYTES + WORDS)}
    assert tokenizer.encode("ab") == [ids["▁ab"]]
    assert tokenizer.encode(" ab") == [ids["▁"], ids["▁ab"]]  # as in sentencepiece 0.2.3
    assert [tokenizer.decode(tokenizer.encode(text)) for text in ("ab", " ab", "  é")] == ["ab", " ab", "  é"]


@pytest.mark.parametrize("raw", [b"not a model at all", b"\x0a\xff", b"", sentencepiece_model(4, SPECIAL)])
def test_a_file_that_is_not_a_sentencepiece_model_is_an_error(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "broken.model").write_bytes(raw)
    with pytest.raises(FileProblem, match="is not a SentencePiece model"):
        open_tokenizer(str(tmp_path / "broken.model"))


def test_the_ranks_of_tiktoken_keep_their_ids() -> None:
    tiktoken = pytest.importorskip("tiktoken")
    words = [b"th", b"he", b"the", b" the", b"in", b"ing", b"!!", b"12"]
    ranks = {bytes([byte]): byte for byte in range(256)}
    ranks |= {word: 256 + number for number, word in enumerate([*words, b" t", b"\n\n"])}
    # Each rank must be the merge of two earlier ones; " the" is " " + "the".
    pattern = (
        r"[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
    )
    special_tokens = {"<|endoftext|>": len(ranks)}
    theirs = tiktoken.Encoding("small", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special_tokens)
    ours = Tokenizer(add_padding(from_ranks(ranks, pattern, special_tokens)))
    for text in ("the thing in the bathing 1234567 !!!\n\n the  end \n ", "é\n\n\n ünï 🙂  \n"):
        assert ours.encode(text) == theirs.encode(text, disallowed_special=())
        assert ours.decode(ours.encode(text)) == text
    assert ours.end_id == special_tokens["<|endoftext|>"]


def add_padding(engine: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    engine.add_special_tokens(["<|padding|>"])
    return engine


def test_byte_letters_match_the_library() -> None:
    assert sorted(byte_letters()) == ALPHABET
    assert to_oniguruma(r"\p{N}{1,3}+|\s++$") == r"\p{N}{1,3}|\s++\z"


def test_a_folder_and_its_tokenizer_json_give_the_same_tokenizer(
    tokenizer: Tokenizer, tokenizer_folder: Path
) -> None:
    assert open_tokenizer(str(tokenizer_folder)).hash == tokenizer.hash
    assert open_tokenizer(str(tokenizer_folder / "tokenizer.json")).hash == tokenizer.hash


def test_missing_end_and_padding_tokens_are_added(
    tokenizer: Tokenizer, tokenizer_folder: Path, tmp_path: Path
) -> None:
    settings = json.loads((tokenizer_folder / "tokenizer.json").read_text())
    settings["added_tokens"] = []
    for name in ("<|endoftext|>", "<|padding|>"):
        del settings["model"]["vocab"][name]
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(FileProblem, match="has no end-of-story token; name one"):
        open_tokenizer(str(tmp_path))
    converted = open_tokenizer(str(tmp_path), end_token="<|end|>")
    assert converted.end_id != converted.pad_id
    converted.save(tmp_path / "converted", {"seconds": 0})
    loaded = Tokenizer.load(tmp_path / "converted")
    assert (loaded.end_token, loaded.end_id, loaded.hash) == ("<|end|>", converted.end_id, converted.hash)


def test_a_tokenizer_that_pads_with_its_end_gets_a_padding_token(
    tokenizer_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").write_text((tokenizer_folder / "tokenizer.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": {"content": "<|endoftext|>"}, "pad_token": "<|endoftext|>"})
    )
    tokenizer = open_tokenizer(str(tmp_path))
    assert tokenizer.end_id != tokenizer.pad_id


def test_a_missing_tokenizer_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match="does not exist"):
        open_tokenizer(str(tmp_path / "nowhere"))
    with pytest.raises(FileProblem, match=r"neither tokenizer.json nor tokenizer.model"):
        open_tokenizer(str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SmalltaleError, match="could not be downloaded from the Hugging Face Hub"):
        open_tokenizer("no-owner/no-tokenizer")
