"""Uploaded model files: validates them, stores them in chunks, and writes them to a folder again.

Input: files open for reading. Output: ModelChunk rows; a folder with the same files.
Note: a chunk has 4 MiB and its own transaction, so that a large model never fills the memory or blocks the database.
"""

from __future__ import annotations

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
"""Size limit of each JSON file."""
BYTES_PER_PARAMETER = 5
"""For the size limit of the weights: 4 bytes of float32, and a margin for the header and for weights that are not counted."""


@dataclass(frozen=True, kw_only=True)
class UploadedFile:
    """A file of a model, open for reading."""

    name: str
    size: int
    content: BinaryIO


def check_files(files: Sequence[UploadedFile], rules: Rules) -> list[FieldProblem]:
    """All problems of uploaded files that can be found without opening the model."""
    names = [file.name for file in files]
    problems = [
        FieldProblem(
            "files",
            f"{escape_unprintable(name)} is not a file of a model",
            f"upload only {', '.join(MODEL_FILES)}; never a pickle",
        )
        for name in names
        if name not in MODEL_FILES
    ]
    problems += [
        FieldProblem("files", f"{name} is missing", "upload it too")
        for name in REQUIRED_FILES
        if name not in names
    ]
    if len(set(names)) < len(names):
        problems.append(FieldProblem("files", "a file name occurs twice", "upload each file once"))
    max_parameters = max(weight_class.max_parameters for weight_class in rules.weight_classes)
    max_weights_bytes = BYTES_PER_PARAMETER * max_parameters
    for file in files:
        limit = max_weights_bytes if file.name == WEIGHTS_FILE else MAX_OTHER_FILE_BYTES
        if file.size > limit:
            message = f"{escape_unprintable(file.name)} has {file.size:,} bytes"
            problems.append(FieldProblem("files", message, f"at most {limit:,} are accepted"))
        elif file.name == WEIGHTS_FILE and not looks_like_safetensors(file):
            fix = "write it with the library safetensors"
            problems.append(FieldProblem("files", f"{WEIGHTS_FILE} is not a safetensors file", fix))
    return problems


def looks_like_safetensors(file: UploadedFile) -> bool:
    """Whether a file begins with the length of a JSON header that fits into the file."""
    file.content.seek(0)
    start = file.content.read(9)
    return len(start) == 9 and struct.unpack("<Q", start[:8])[0] <= file.size - 8 and start[8:] == b"{"


def iter_chunks(content: BinaryIO) -> Iterator[bytes]:
    """The content of a file in chunks; an empty file is one empty chunk."""
    content.seek(0)
    yield content.read(CHUNK_BYTES)
    while chunk := content.read(CHUNK_BYTES):
        yield chunk


def delete_chunks(session: Session, submission_id: int, keep_upload: str = "") -> None:
    """Delete the chunks of a submission's models, except those of one upload."""
    session.execute(
        delete(ModelChunk).where(ModelChunk.submission_id == submission_id, ModelChunk.upload != keep_upload)
    )


def store_chunks(database: Database, submission_id: int, upload: str, files: Sequence[UploadedFile]) -> int:
    """Write files in chunks, each in its own transaction. Returns the number of chunks."""
    count = 0
    for file in files:
        for number, content in enumerate(iter_chunks(file.content)):
            row = ModelChunk(
                upload=upload, file=file.name, number=number, submission_id=submission_id, content=content
            )
            with database.write() as session:
                session.add(row)
            count += 1
    return count


def write_model_folder(
    database: Database, upload: str, files: Mapping[str, Mapping[str, Any]], folder: Path
) -> None:
    """Write an upload's files to a folder. Raises SmalltaleError if their hashes are not those of the upload."""
    for name, description in files.items():
        with translate_os_errors(folder / name), (folder / name).open("wb") as out:
            number = 0
            while (chunk := read_chunk(database, upload, name, number)) is not None:
                out.write(chunk)
                number += 1
        if sha256_file(folder / name) != description["sha256"]:
            raise SmalltaleError(f"{name} in the database is not what was uploaded; upload the model again")


def read_chunk(database: Database, upload: str, name: str, number: int) -> bytes | None:
    """A chunk of a file; None after the last."""
    with database.read() as session:
        return session.scalar(
            select(ModelChunk.content).where(
                ModelChunk.upload == upload, ModelChunk.file == name, ModelChunk.number == number
            )
        )
