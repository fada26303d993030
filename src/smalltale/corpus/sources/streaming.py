"""Read sources that have no random access: compressed files, tar archives, JSON arrays, CSV.

Input: a path. Output: batches of SourceDocuments.
Archives are read in memory and never unpacked to disk, so a member's path cannot escape the build folder; a file
with an implausible compression ratio (a decompression bomb) is refused.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from smalltale.corpus.document import SourceDocument
from smalltale.corpus.sources.records import (
    BEFORE_OPENING,
    EXCERPT,
    LINE_END,
    LONGEST_STORY_BYTES,
    find_text,
    find_text_column,
    parse_json_line,
    parse_text,
    read_parquet,
)
from smalltale.errors import FileProblem
from smalltale.files import translate_os_errors

Stream: TypeAlias = "io.BufferedReader[Any]"
CHUNK = 1_000_000
LARGEST_RATIO = 200
"""Text compresses 3 to 10 times; a file that expands more than this is a decompression bomb."""
RATIO_COUNTS_FROM = 256_000_000
UNCOMPRESSED = 1 << 50
"""A compressed size for LimitedStream that no file reaches: no limit."""
MEMBER_SUFFIXES = {".json", ".jsonl", ".ndjson", ".txt", ".csv"}
"""Archive members that are read."""


class LimitedStream(io.RawIOBase):
    """A decompressed stream that limits the compression ratio and explains a truncated file."""

    def __init__(self, path: Path, stream: Any, compressed_bytes: int) -> None:
        self.path, self.stream, self.read_bytes = path, stream, 0
        self.limit = max(LARGEST_RATIO * compressed_bytes, RATIO_COUNTS_FROM)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        try:
            data = self.stream.read(len(view))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise FileProblem(
                f"{self.path} is truncated after {self.read_bytes:,} bytes of text ({error}); download it again, "
                "then repeat the build: it resumes"
            ) from error
        self.read_bytes += len(data)
        if self.read_bytes > self.limit:
            raise FileProblem(
                f"{self.path} expands to more than {LARGEST_RATIO} times its size, which text does not; leave it out"
            )
        view[: len(data)] = data
        return len(data)


def read_batches(
    path: Path, end_mark: str, tar_parts: Sequence[str], batch_bytes: int
) -> Iterator[tuple[SourceDocument, ...]]:
    """Yield the documents of `path` in batches of about `batch_bytes`. Raises FileProblem if it is truncated."""
    batch: list[SourceDocument] = []
    size = 0
    for document in read_stream(path, end_mark, tar_parts):
        batch.append(document)
        size += len(document.text)
        if size >= batch_bytes:
            yield tuple(batch)
            batch, size = [], 0
    if batch:
        yield tuple(batch)


def read_stream(path: Path, end_mark: str, tar_parts: Sequence[str]) -> Iterator[SourceDocument]:
    """Yield every document of a file, front to back."""
    if path.suffix == ".parquet":
        yield from read_parquet(path)
        return
    with translate_os_errors(path):
        size = path.stat().st_size
        name = path.name.lower()
        is_compressed = name.endswith((".gz", ".tgz"))
        with path.open("rb") as raw, gzip.open(raw) if is_compressed else raw as plain:
            limited = LimitedStream(path, plain, size if is_compressed else UNCOMPRESSED)
            stream: Stream = io.BufferedReader(limited, CHUNK)
            name = name.removesuffix(".gz")
            if name.endswith((".tar", ".tgz")):
                yield from read_tar(path, stream, end_mark, tar_parts)
            else:
                yield from read_by_suffix(stream, name, path.name, end_mark, tar_parts)


def read_by_suffix(
    stream: Stream, name: str, source_id: str, end_mark: str, tar_parts: Sequence[str]
) -> Iterator[SourceDocument]:
    """Yield the documents of one file or archive member in the format that the suffix of `name` says."""
    if name.endswith(".json"):
        yield from read_json_values(stream, source_id, tar_parts)
    elif name.endswith(".csv"):
        yield from read_csv(stream, source_id)
    elif name.endswith((".jsonl", ".ndjson")):
        for start, raw, complete in split_stream(stream, LINE_END):
            yield from parse_json_line(raw, f"{source_id}:{start}", complete)
    else:
        is_marked = end_mark.encode() in stream.peek(CHUNK)
        separator = re.compile(re.escape(end_mark.encode())) if is_marked else BEFORE_OPENING
        for start, raw, complete in split_stream(stream, separator):
            yield from parse_text(raw, f"{source_id}:{start}", complete)


def read_tar(path: Path, stream: Stream, end_mark: str, tar_parts: Sequence[str]) -> Iterator[SourceDocument]:
    """Yield the documents of every text file in a tar archive without unpacking it."""
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                member_path = PurePosixPath(member.name)
                if not member.isfile() or member_path.name.startswith("."):
                    continue
                if member_path.is_absolute() or ".." in member_path.parts:
                    yield SourceDocument("", f"{path.name}/{member.name}", "unsafe path")
                    continue
                content: Any = archive.extractfile(member)
                if content is not None and member_path.suffix in MEMBER_SUFFIXES:
                    limited = io.BufferedReader(LimitedStream(path, content, UNCOMPRESSED), CHUNK)
                    name = member_path.name
                    yield from read_by_suffix(limited, name.lower(), name, end_mark, tar_parts)
    except tarfile.TarError as error:
        raise FileProblem(
            f"{path} is not a complete tar archive ({error}); download it again, then repeat the build: it resumes"
        ) from error


def read_json_values(stream: Stream, source_id: str, tar_parts: Sequence[str]) -> Iterator[SourceDocument]:
    """Yield the values of a JSON array, or of concatenated JSON values, holding one value in memory at a time."""
    decoder, text, number = json.JSONDecoder(), "", 0
    characters = io.TextIOWrapper(stream, encoding="utf-8", errors="replace")
    at_end = False
    while not at_end or text:
        chunk = characters.read(CHUNK)
        at_end = not chunk
        text += chunk
        start = 0
        while True:
            while start < len(text) and text[start] in " \t\r\n,[]":
                start += 1
            try:
                value, start = decoder.raw_decode(text, start)
            except ValueError:
                break
            if is_in_parts(value, tar_parts):
                try:
                    yield SourceDocument(find_text(value), f"{source_id}:{number}")
                except ValueError:
                    yield SourceDocument(str(value)[:EXCERPT], f"{source_id}:{number}", "broken line")
            number += 1
        text = text[start:]
        if at_end and not text:
            return
        if at_end or len(text) > LONGEST_STORY_BYTES + CHUNK:
            yield SourceDocument(text[:EXCERPT], f"{source_id}:{number}", "broken line")
            number += 1
            line_end = text.find("\n", 1)
            text = text[line_end:] if line_end > 0 else ""


def is_in_parts(value: object, tar_parts: Sequence[str]) -> bool:
    """Whether a record belongs to the chosen parts (GPT-3.5, GPT-4); a record without a part always does."""
    part = value.get("source") if isinstance(value, dict) else None
    return not tar_parts or not isinstance(part, str) or part in tar_parts


def read_csv(stream: Stream, source_id: str) -> Iterator[SourceDocument]:
    """Yield the text column of a CSV file with a header line."""
    csv.field_size_limit(LONGEST_STORY_BYTES)
    rows = csv.reader(io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline=""))
    header = next(rows, [])
    column = header.index(find_text_column(header, source_id))
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield SourceDocument(str(error), f"{source_id}:{rows.line_num}", "broken line")
            continue
        if len(row) > column:
            yield SourceDocument(row[column], f"{source_id}:{rows.line_num}")
        else:
            yield SourceDocument(str(row), f"{source_id}:{rows.line_num}", "broken line")


def split_stream(stream: Stream, separator: re.Pattern[bytes]) -> Iterator[tuple[int, bytes, bool]]:
    """Yield each stretch between separators: its offset, its bytes, and whether they are complete."""
    data, base, skipping = b"", 0, False
    while chunk := stream.read(CHUNK):
        data += chunk
        start = 0
        for match in separator.finditer(data, 0, max(0, len(data) - 64)):
            if not skipping:
                yield base + start, data[start : match.start()], True
            skipping, start = False, match.end()
        data, base = data[start:], base + start
        if len(data) > LONGEST_STORY_BYTES:
            if not skipping:
                yield base, data, False
            skipping, data, base = True, data[-64:], base + len(data) - 64
    start = 0
    for match in separator.finditer(data):
        if not skipping:
            yield base + start, data[start : match.start()], True
        skipping, start = False, match.end()
    if not skipping:
        yield base + start, data[start:], True
