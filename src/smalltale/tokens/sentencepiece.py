"""SentencePiece models, read without the sentencepiece package.

In: a .model file, which is a protocol buffer. Out: the same tokenizer for Hugging Face `tokenizers`.
Beware: only what decides the ids is read; field numbers are those of sentencepiece_model.proto.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers

from smalltale.errors import FileProblem
from smalltale.files import explained

UNKNOWN, CONTROL, USER_DEFINED, BYTE = 2, 3, 4, 6
"""Types of pieces that are no ordinary text."""
UNIGRAM, BPE = 1, 2


@dataclass
class SentencePieceModel:
    """What decides the ids of a SentencePiece model."""

    pieces: list[tuple[str, float, int]] = field(default_factory=list)
    """Text, score and type of each id."""
    model_type: int = UNIGRAM
    end_piece: str = "</s>"
    padding_piece: str = "<pad>"
    charsmap: bytes = b""
    dummy_prefix: bool = True
    remove_extra_spaces: bool = True


def read_sentencepiece(path: Path) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """The engine of a .model file and the names of its end and padding tokens. Raises FileProblem for another file."""
    with explained(path):
        raw = path.read_bytes()
    try:
        model = parse(raw)
    except (IndexError, UnicodeDecodeError, struct.error, ValueError) as error:
        raise FileProblem(f"{path} is not a SentencePiece model ({error}); give another file") from error
    if not model.pieces or model.model_type not in (UNIGRAM, BPE):
        raise FileProblem(
            f"{path} is not a SentencePiece model of Unigram or BPE; give one of these, or a tokenizer.json"
        )
    kinds = {text: kind for text, _, kind in model.pieces}
    names = {
        key: piece
        for key, piece in (("eos_token", model.end_piece), ("pad_token", model.padding_piece))
        if kinds.get(piece) == CONTROL
    }
    return tokenizers.Tokenizer.from_str(json.dumps(as_tokenizer_json(model))), names


def parse(raw: bytes) -> SentencePieceModel:
    """The fields of a ModelProto."""
    model = SentencePieceModel()
    for number, value in fields(raw):
        if number == 1:
            piece = dict(fields(value))
            (score,) = struct.unpack("<f", piece.get(2, b"\0\0\0\0"))
            model.pieces.append((piece.get(1, b"").decode(), score, piece.get(3, 1)))
        elif number == 2:
            trainer = dict(fields(value))
            model.model_type = trainer.get(3, UNIGRAM)
            model.end_piece = trainer.get(47, b"</s>").decode()
            model.padding_piece = trainer.get(48, b"<pad>").decode()
        elif number == 3:
            normalizer = dict(fields(value))
            model.charsmap = normalizer.get(2, b"")
            model.dummy_prefix = bool(normalizer.get(3, 1))
            model.remove_extra_spaces = bool(normalizer.get(4, 1))
    return model


def fields(raw: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a protocol buffer: an int, or bytes."""
    at = 0

    def varint() -> int:
        nonlocal at
        value, shift = 0, 0
        while True:
            byte = raw[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(raw):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(kind)
        if size is None:
            if kind != 2:
                raise ValueError(f"field type {kind} at byte {at}")
            size = varint()
        if at + size > len(raw):
            raise ValueError(f"cut short at byte {len(raw)}")
        yield key >> 3, raw[at : at + size]
        at += size


def as_tokenizer_json(model: SentencePieceModel) -> dict[str, Any]:
    """The model as the library's tokenizer.json."""
    unknown = next((i for i, (_, _, kind) in enumerate(model.pieces) if kind == UNKNOWN), None)
    bytes_too = any(kind == BYTE for _, _, kind in model.pieces)
    normalizers: list[dict[str, Any]] = []
    if model.charsmap:
        normalizers.append(
            {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(model.charsmap).decode()}
        )
    if model.remove_extra_spaces:
        normalizers.append({"type": "Strip", "strip_left": True, "strip_right": True})
        normalizers.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    # Metaspace would leave out the dummy prefix before a text that begins with a space.
    if model.dummy_prefix:
        normalizers.append({"type": "Prepend", "prepend": "▁"})
    normalizers.append({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})
    decoding: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if model.dummy_prefix:
        decoding.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    inner: dict[str, Any]
    if model.model_type == UNIGRAM:
        inner = {
            "type": "Unigram",
            "unk_id": unknown,
            "vocab": [[text, score] for text, score, _ in model.pieces],
            "byte_fallback": bytes_too,
        }
    else:
        inner = {
            "type": "BPE",
            "dropout": None,
            "unk_token": model.pieces[unknown][0] if unknown is not None else None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": bytes_too,
            "ignore_merges": False,
            "vocab": {text: number for number, (text, _, _) in enumerate(model.pieces)},
            "merges": merges_of(model),
        }
    added = [
        {
            "id": number,
            "content": text,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind != USER_DEFINED,
        }
        for number, (text, _, kind) in enumerate(model.pieces)
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoding},
        "model": inner,
    }


def merges_of(model: SentencePieceModel) -> list[list[str]]:
    """The merges of a BPE model, best first: every way to make a piece of two others, by the piece's score."""
    ordinary = {text: score for text, score, kind in model.pieces if kind == 1}
    order = {text: number for number, (text, _, _) in enumerate(model.pieces)}
    merges = [
        (-score, order[text[:cut]], order[text[cut:]], text[:cut], text[cut:])
        for text, score in ordinary.items()
        for cut in range(1, len(text))
        if text[:cut] in ordinary and text[cut:] in ordinary
    ]
    return [[left, right] for *_, left, right in sorted(merges)]
