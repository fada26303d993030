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
from smalltale.files import sha256_file, translate_os_errors
from smalltale.rules import Rules
from smalltale.server.accounts.accounts import escape_unprintable
from smalltale.server.database.models import ModelChunk
from smalltale.server.database.session import Database
from smalltale.server.errors import FieldProblem
from smalltale.server.verification.model_checks import MODEL_FILES, REQUIRED_FILES, WEIGHTS_FILE

CHUNK_BYTES = 4 << 20
MAX_OTHER_FILE_BYTES = 32 << 20
"""Of config and tokenizer together."""
BYTES_PER_PARAMETER = 5
"""Float32, and some room for names and tables."""


@dataclass(frozen=True, kw_only=True)
class UploadedFile:
    """One file of a model, open for reading."""

    name: str
    size: int
    content: BinaryIO


def max_weights_bytes(rules: Rules) -> int:
    """The largest model.safetensors that an edition takes."""
    return BYTES_PER_PARAMETER * max(each.max_parameters for each in rules.weight_classes)


def check_files(files: Sequence[UploadedFile], rules: Rules) -> list[FieldProblem]:
    """Everything wrong with what was sent, before it is opened."""
    names = [each.name for each in files]
    problems = [
        FieldProblem(
            "files",
            f"{escape_unprintable(name) or 'a file without a name'} is no file of a model",
            f"send only {', '.join(MODEL_FILES)}; never a pickle",
        )
        for name in names
        if name not in MODEL_FILES
    ]
    problems += [
        FieldProblem("files", f"{name} is missing", "send it, too")
        for name in REQUIRED_FILES
        if name not in names
    ]
    if len(set(names)) < len(names):
        problems.append(FieldProblem("files", "a file is there twice", "send each once"))
    for each in files:
        limit = max_weights_bytes(rules) if each.name == WEIGHTS_FILE else MAX_OTHER_FILE_BYTES
        if each.size > limit:
            problems.append(
                FieldProblem(
                    "files",
                    f"{escape_unprintable(each.name)} has {each.size:,} bytes",
                    f"at most {limit:,} are taken",
                )
            )
        elif each.name == WEIGHTS_FILE and not looks_like_safetensors(each):
            problems.append(
                FieldProblem(
                    "files", f"{WEIGHTS_FILE} is not a safetensors file", "write it with safetensors"
                )
            )
    return problems


def looks_like_safetensors(sent: UploadedFile) -> bool:
    """Whether a file begins with the length of a header of JSON that fits into it."""
    sent.content.seek(0)
    start = sent.content.read(9)
    return len(start) == 9 and struct.unpack("<Q", start[:8])[0] <= sent.size - 8 and start[8:] == b"{"


def sha256(content: BinaryIO) -> str:
    """The hash of a file that is open."""
    digest = hashlib.sha256()
    for piece in iter_chunks(content):
        digest.update(piece)
    return digest.hexdigest()


def iter_chunks(content: BinaryIO) -> Iterator[bytes]:
    """A file, a few megabytes at a time; an empty one is one empty piece."""
    content.seek(0)
    yield content.read(CHUNK_BYTES)
    while piece := content.read(CHUNK_BYTES):
        yield piece


def delete_chunks(session: Session, submission_id: int, but: str | None = None) -> None:
    """Delete the pieces of a hand-in's models."""
    query = delete(ModelChunk).where(ModelChunk.submission_id == submission_id)
    session.execute(query if but is None else query.where(ModelChunk.upload != but))


def store_chunks(database: Database, submission_id: int, upload: str, files: Sequence[UploadedFile]) -> int:
    """Write files piece by piece, each a transaction of its own. Returns how many pieces."""
    count = 0
    for each in files:
        for number, content in enumerate(iter_chunks(each.content)):
            row = ModelChunk(
                upload=upload, file=each.name, number=number, submission_id=submission_id, content=content
            )
            with database.write() as session:
                session.add(row)
            count += 1
    return count


def write_model_folder(
    database: Database, upload: str, files: Mapping[str, Mapping[str, Any]], folder: Path
) -> None:
    """Write an upload's files into a folder. Raises SmalltaleError where they are not as they came."""
    for name, told in files.items():
        with translate_os_errors(folder / name), (folder / name).open("wb") as out:
            number = 0
            while (piece := read_chunk(database, upload, name, number)) is not None:
                out.write(piece)
                number += 1
        if sha256_file(folder / name) != told["sha256"]:
            raise SmalltaleError(f"{name} is not in the database as it was sent; send the model again")


def read_chunk(database: Database, upload: str, name: str, number: int) -> bytes | None:
    """One piece, None past the last."""
    with database.read() as session:
        return session.scalar(
            select(ModelChunk.content).where(
                ModelChunk.upload == upload, ModelChunk.file == name, ModelChunk.number == number
            )
        )
