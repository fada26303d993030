"""Read SentencePiece models without the sentencepiece package.

Input: a .model file, a protocol buffer. Output: the same tokenizer for Hugging Face `tokenizers`.
Only the fields that decide the ids are read; field numbers are those of sentencepiece_model.proto.
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
from smalltale.files import translate_os_errors

UNKNOWN, CONTROL, USER_DEFINED, BYTE = 2, 3, 4, 6
"""Types of pieces other than ordinary text."""
UNIGRAM, BPE = 1, 2


@dataclass
class SentencePieceModel:
    """The fields of a SentencePiece model that decide the ids."""

    pieces: list[tuple[str, float, int]] = field(default_factory=list)
    """Text, score and type of each id."""
    model_type: int = UNIGRAM
    end_piece: str = "</s>"
    padding_piece: str = "<pad>"
    charsmap: bytes = b""
    dummy_prefix: bool = True
    remove_extra_spaces: bool = True


def read_sentencepiece(path: Path) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """Return the engine of a .model file and its end and padding tokens. Raises FileProblem for any other file."""
    with translate_os_errors(path):
        raw = path.read_bytes()
    try:
        model = parse_model(raw)
    except (IndexError, UnicodeDecodeError, struct.error, ValueError) as error:
        raise FileProblem(f"{path} is not a SentencePiece model ({error}); give another file") from error
    if not model.pieces or model.model_type not in (UNIGRAM, BPE):
        raise FileProblem(
            f"{path} is not a SentencePiece model of type Unigram or BPE; give one of these, or a tokenizer.json"
        )
    kinds = {text: kind for text, _, kind in model.pieces}
    names = {
        key: piece
        for key, piece in (("eos_token", model.end_piece), ("pad_token", model.padding_piece))
        if kinds.get(piece) == CONTROL
    }
    return tokenizers.Tokenizer.from_str(json.dumps(to_tokenizer_json(model))), names


def parse_model(raw: bytes) -> SentencePieceModel:
    """Parse a ModelProto."""
    model = SentencePieceModel()
    for number, value in parse_fields(raw):
        if number == 1:
            piece = dict(parse_fields(value))
            (score,) = struct.unpack("<f", piece.get(2, b"\0\0\0\0"))
            model.pieces.append((piece.get(1, b"").decode(), score, piece.get(3, 1)))
        elif number == 2:
            trainer = dict(parse_fields(value))
            model.model_type = trainer.get(3, UNIGRAM)
            model.end_piece = trainer.get(47, b"</s>").decode()
            model.padding_piece = trainer.get(48, b"<pad>").decode()
        elif number == 3:
            normalizer = dict(parse_fields(value))
            model.charsmap = normalizer.get(2, b"")
            model.dummy_prefix = bool(normalizer.get(3, 1))
            model.remove_extra_spaces = bool(normalizer.get(4, 1))
    return model


def parse_fields(raw: bytes) -> Iterator[tuple[int, Any]]:
    """Yield the number and value (int or bytes) of each field of a protocol buffer."""
    position = 0

    def read_varint() -> int:
        nonlocal position
        value, shift = 0, 0
        while True:
            byte = raw[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while position < len(raw):
        key = read_varint()
        wire_type = key & 7
        if wire_type == 0:
            yield key >> 3, read_varint()
            continue
        size = {1: 8, 5: 4}.get(wire_type)
        if size is None:
            if wire_type != 2:
                raise ValueError(f"field type {wire_type} at byte {position}")
            size = read_varint()
        if position + size > len(raw):
            raise ValueError(f"truncated at byte {len(raw)}")
        yield key >> 3, raw[position : position + size]
        position += size


def to_tokenizer_json(model: SentencePieceModel) -> dict[str, Any]:
    """Return the model as a tokenizer.json of the library."""
    unknown = next((i for i, (_, _, kind) in enumerate(model.pieces) if kind == UNKNOWN), None)
    has_bytes = any(kind == BYTE for _, _, kind in model.pieces)
    normalizers: list[dict[str, Any]] = []
    if model.charsmap:
        normalizers.append(
            {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(model.charsmap).decode()}
        )
    if model.remove_extra_spaces:
        normalizers.append({"type": "Strip", "strip_left": True, "strip_right": True})
        normalizers.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    # Metaspace would omit the dummy prefix before a text that begins with a space.
    if model.dummy_prefix:
        normalizers.append({"type": "Prepend", "prepend": "▁"})
    normalizers.append({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if model.dummy_prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    model_json: dict[str, Any]
    if model.model_type == UNIGRAM:
        model_json = {
            "type": "Unigram",
            "unk_id": unknown,
            "vocab": [[text, score] for text, score, _ in model.pieces],
            "byte_fallback": has_bytes,
        }
    else:
        model_json = {
            "type": "BPE",
            "dropout": None,
            "unk_token": model.pieces[unknown][0] if unknown is not None else None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": has_bytes,
            "ignore_merges": False,
            "vocab": {text: number for number, (text, _, _) in enumerate(model.pieces)},
            "merges": list_merges(model),
        }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list_added_tokens(model),
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": model_json,
    }


def list_added_tokens(model: SentencePieceModel) -> list[dict[str, Any]]:
    """List the unknown, control and user-defined pieces as added tokens of the library."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [
        {"id": number, "content": text, **flags, "special": kind != USER_DEFINED}
        for number, (text, _, kind) in enumerate(model.pieces)
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]


def list_merges(model: SentencePieceModel) -> list[list[str]]:
    """List the merges of a BPE model, best first: every way to join two pieces into a third, by its score."""
    ordinary = {text: score for text, score, kind in model.pieces if kind == 1}
    order = {text: number for number, (text, _, _) in enumerate(model.pieces)}
    merges = [
        (-score, order[text[:cut]], order[text[cut:]], text[:cut], text[cut:])
        for text, score in ordinary.items()
        for cut in range(1, len(text))
        if text[:cut] in ordinary and text[cut:] in ordinary
    ]
    return [[left, right] for *_, left, right in sorted(merges)]
