"""Cut a source into pieces that any worker process can read, and read a piece.

Input: a Source. Output: Pieces in a fixed order, and the SourceDocuments of a piece.
The pieces depend only on the input, never on the number of processes, and so does every byte of a build.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from smalltale.corpus.document import SourceDocument
from smalltale.corpus.fable.generator import generate_stories
from smalltale.corpus.sources.catalog import Source
from smalltale.corpus.sources.records import (
    BEFORE_OPENING,
    LINE_END,
    LONGEST_STORY_BYTES,
    open_parquet,
    parse_json_line,
    parse_text,
    read_parquet,
)
from smalltale.corpus.sources.streaming import read_batches
from smalltale.files import END_OF_STORY, translate_os_errors

PIECE_BYTES = 8_000_000
FABLE_PIECE = 10_000
HEAD_BYTES = 16_000_000
"""How much of a text is searched for the first end-of-story mark."""
CHUNK = 65_536
MARGIN = 256
"""Bytes read around a piece, so that a separator across its edge is found."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a source: bytes [start, stop) of a text, row groups of a Parquet file, story numbers of fable."""

    source: Source
    start: int
    stop: int
    documents: tuple[SourceDocument, ...] | None = field(default=None, repr=False)
    """The documents themselves, for a source that can only be read front to back."""


def split_source(
    source: Source, end_mark: str = END_OF_STORY, tar_parts: Sequence[str] = (), fable_stories: int = 0
) -> Iterator[Piece]:
    """Yield the pieces of a source in order."""
    if source.format == "fable":
        for start in range(0, fable_stories, FABLE_PIECE):
            yield Piece(source=source, start=start, stop=min(start + FABLE_PIECE, fable_stories))
    elif source.format in ("text", "lines"):
        # A small file gets smaller pieces, at most 16, so that it keeps every core busy.
        step = min(PIECE_BYTES, max(PIECE_BYTES // 8, -(-source.size // 16)))
        for start in range(0, source.size, step):
            yield Piece(source=source, start=start, stop=min(start + step, source.size))
    elif source.format == "parquet":
        yield from split_row_groups(source)
    else:
        for number, documents in enumerate(read_batches(Path(source.path), end_mark, tar_parts, PIECE_BYTES)):
            yield Piece(source=source, start=number, stop=number + 1, documents=documents)


def split_row_groups(source: Source) -> Iterator[Piece]:
    """Yield runs of row groups of about PIECE_BYTES."""
    with open_parquet(Path(source.path)) as parquet:
        meta = parquet.metadata
        start = size = 0
        for number in range(meta.num_row_groups):
            size += meta.row_group(number).total_byte_size
            if size >= PIECE_BYTES or number == meta.num_row_groups - 1:
                yield Piece(source=source, start=start, stop=number + 1)
                start, size = number + 1, 0


def read_piece(piece: Piece, end_mark: str = END_OF_STORY, seed: int = 1) -> Iterator[SourceDocument]:
    """Yield the documents of a piece. Raises FileProblem if the file is truncated."""
    source, path = piece.source, Path(piece.source.path)
    if piece.documents is not None:
        yield from piece.documents
    elif source.format == "fable":
        texts = generate_stories(seed, piece.stop - piece.start, piece.start)
        for number, text in enumerate(texts, piece.start):
            yield SourceDocument(text, f"fable-{seed}-{number}")
    elif source.format == "parquet":
        yield from read_parquet(path, range(piece.start, piece.stop))
    else:
        is_json = source.format == "lines"
        parse = parse_json_line if is_json else parse_text
        with translate_os_errors(path):
            separator = LINE_END if is_json else find_separator(path, end_mark)
            for start, raw, complete in split_bytes(path, separator, piece.start, piece.stop):
                yield from parse(raw, f"{path.name}:{start}", complete)


def find_separator(path: Path, end_mark: str) -> re.Pattern[bytes]:
    """Return the end-of-story mark if the first HEAD_BYTES of a text have it, else BEFORE_OPENING."""
    mark, head = end_mark.encode(), b""
    with path.open("rb") as file:
        while len(head) < HEAD_BYTES and (chunk := file.read(CHUNK)):
            head += chunk
            if mark in head:
                return re.compile(re.escape(mark))
    return BEFORE_OPENING


def split_bytes(
    path: Path, separator: re.Pattern[bytes], start: int, stop: int
) -> Iterator[tuple[int, bytes, bool]]:
    """Yield each stretch between separators that begins in [start, stop): its offset, its bytes, whether complete."""
    with path.open("rb") as file:
        base = max(0, start - MARGIN)
        file.seek(base)
        data = file.read(stop - base + MARGIN)
        starts = [match.end() + base for match in separator.finditer(data)]
        starts = [0, *starts] if start == 0 else starts
        starts = [offset for offset in starts if start <= offset < stop]
        if not starts:
            return
        while not (match := separator.search(data, starts[-1] - base)):
            chunk = file.read(LONGEST_STORY_BYTES // 4)
            if not chunk or len(data) + base - starts[-1] > LONGEST_STORY_BYTES:
                break
            data += chunk
        is_complete = match is not None or not chunk
        last_end = match.start() if match else len(data)
    for offset in starts[:-1]:
        match = separator.search(data, offset - base)
        assert match is not None
        yield offset, data[offset - base : match.start()], True
    yield starts[-1], data[starts[-1] - base : last_end], is_complete
