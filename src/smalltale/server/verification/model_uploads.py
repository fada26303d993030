"""A model's files: what is taken, how it is kept in pieces, how it comes out again.

In: files open for reading. Out: ModelPiece rows; a folder with the same files.
Beware: a piece is a few megabytes, so that a large model is never whole in memory and never holds the database.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from smalltale.errors import SmalltaleError
from smalltale.files import explained, sha256_of
from smalltale.rules import Rules
from smalltale.server.accounts.accounts import visible
from smalltale.server.database.models import ModelPiece
from smalltale.server.database.session import Store
from smalltale.server.errors import FieldProblem
from smalltale.server.verification.sandbox import MODEL_FILES, NEEDED, WEIGHTS

PIECE_BYTES = 4 << 20
OTHERS_BYTES = 32 << 20
"""Of config and tokenizer together."""
BYTES_A_PARAMETER = 5
"""Float32, and some room for names and tables."""


@dataclass(frozen=True, kw_only=True)
class Sent:
    """One file of a model, open for reading."""

    name: str
    size: int
    content: BinaryIO


def most_bytes(rules: Rules) -> int:
    """The largest model.safetensors that an edition takes."""
    return BYTES_A_PARAMETER * max(each.max_parameters for each in rules.weight_classes)


def check_files(files: Sequence[Sent], rules: Rules) -> list[FieldProblem]:
    """Everything wrong with what was sent, before it is opened."""
    names = [each.name for each in files]
    problems = [
        FieldProblem(
            "files",
            f"{visible(name) or 'a file without a name'} is no file of a model",
            f"send only {', '.join(MODEL_FILES)}; never a pickle",
        )
        for name in names
        if name not in MODEL_FILES
    ]
    problems += [
        FieldProblem("files", f"{name} is missing", "send it, too") for name in NEEDED if name not in names
    ]
    if len(set(names)) < len(names):
        problems.append(FieldProblem("files", "a file is there twice", "send each once"))
    for each in files:
        limit = most_bytes(rules) if each.name == WEIGHTS else OTHERS_BYTES
        if each.size > limit:
            problems.append(
                FieldProblem(
                    "files", f"{visible(each.name)} has {each.size:,} bytes", f"at most {limit:,} are taken"
                )
            )
        elif each.name == WEIGHTS and not looks_like_safetensors(each):
            problems.append(
                FieldProblem("files", f"{WEIGHTS} is not a safetensors file", "write it with safetensors")
            )
    return problems


def looks_like_safetensors(sent: Sent) -> bool:
    """Whether a file begins with the length of a header of JSON that fits into it."""
    sent.content.seek(0)
    start = sent.content.read(9)
    return len(start) == 9 and struct.unpack("<Q", start[:8])[0] <= sent.size - 8 and start[8:] == b"{"


def sha256(content: BinaryIO) -> str:
    """The hash of a file that is open."""
    digest = hashlib.sha256()
    for piece in pieces(content):
        digest.update(piece)
    return digest.hexdigest()


def pieces(content: BinaryIO) -> Iterator[bytes]:
    """A file, a few megabytes at a time; an empty one is one empty piece."""
    content.seek(0)
    yield content.read(PIECE_BYTES)
    while piece := content.read(PIECE_BYTES):
        yield piece


def forget(session: Session, hand_in_id: int, but: str | None = None) -> None:
    """Delete the pieces of a hand-in's models."""
    query = delete(ModelPiece).where(ModelPiece.hand_in_id == hand_in_id)
    session.execute(query if but is None else query.where(ModelPiece.upload != but))


def keep_pieces(store: Store, hand_in_id: int, upload: str, files: Sequence[Sent]) -> int:
    """Write files piece by piece, each a transaction of its own. Returns how many pieces."""
    count = 0
    for each in files:
        for number, content in enumerate(pieces(each.content)):
            row = ModelPiece(
                upload=upload, file=each.name, number=number, hand_in_id=hand_in_id, content=content
            )
            with store.write() as session:
                session.add(row)
            count += 1
    return count


def unpack(store: Store, upload: str, files: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Write an upload's files into a folder. Raises SmalltaleError where they are not as they came."""
    for name, told in files.items():
        with explained(folder / name), (folder / name).open("wb") as out:
            number = 0
            while (piece := one_piece(store, upload, name, number)) is not None:
                out.write(piece)
                number += 1
        if sha256_of(folder / name) != told["sha256"]:
            raise SmalltaleError(f"{name} is not in the database as it was sent; send the model again")


def one_piece(store: Store, upload: str, name: str, number: int) -> bytes | None:
    """One piece, None past the last."""
    with store.read() as session:
        return session.scalar(
            select(ModelPiece.content).where(
                ModelPiece.upload == upload, ModelPiece.file == name, ModelPiece.number == number
            )
        )
