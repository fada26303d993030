"""Sources that can only be read from front to back: compressed files, tar archives, JSON arrays, CSV.

In: a path. Out: batches of stories.
Beware: nothing of an archive is ever written to disk, so a member's path cannot lead anywhere; a file that swells
without end is refused.
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

from smalltale.corpus.sources import (
    LINE,
    LONGEST_STORY_BYTES,
    UNMARKED,
    Read,
    parquet,
    read_line,
    read_raw,
    text_column,
    text_of,
)
from smalltale.errors import FileProblem
from smalltale.files import explained

Stream: TypeAlias = "io.BufferedReader[Any]"
CHUNK = 1_000_000
LARGEST_RATIO = 200
"""Text compresses 3 to 10 times; what swells more than this is a bomb."""
RATIO_COUNTS_FROM = 256_000_000


class Guarded(io.RawIOBase):
    """A decompressed stream that refuses to swell without end and explains where it breaks off."""

    def __init__(self, path: Path, inner: Any, compressed: int) -> None:
        self.path, self.inner, self.limit, self.read_bytes = (
            path,
            inner,
            max(LARGEST_RATIO * compressed, RATIO_COUNTS_FROM),
            0,
        )

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        try:
            data = self.inner.read(len(view))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise FileProblem(
                f"{self.path} breaks off after {self.read_bytes:,} bytes of text ({error}); fetch it again, the build goes on from there"
            ) from error
        self.read_bytes += len(data)
        if self.read_bytes > self.limit:
            raise FileProblem(
                f"{self.path} swells to more than {LARGEST_RATIO} times its size; it is no text, leave it out"
            )
        view[: len(data)] = data
        return len(data)


def batches(path: Path, mark: str, parts: Sequence[str], batch_bytes: int) -> Iterator[list[Read]]:
    """The stories of `path` in lists of about `batch_bytes`. Raises FileProblem where it breaks off."""
    batch: list[Read] = []
    size = 0
    for read in read_stream(path, mark, parts):
        batch.append(read)
        size += len(read.text)
        if size >= batch_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def read_stream(path: Path, mark: str, parts: Sequence[str]) -> Iterator[Read]:
    """Every story of a file that must be read in order."""
    if path.suffix == ".parquet":
        yield from read_parquet(path)
        return
    with explained(path):
        compressed = path.stat().st_size
        name = path.name.lower()
        zipped = name.endswith((".gz", ".tgz"))
        with path.open("rb") as raw, gzip.open(raw) if zipped else raw as inner:
            stream: Stream = io.BufferedReader(Guarded(path, inner, compressed if zipped else 1 << 50), CHUNK)
            bare = name.removesuffix(".gz")
            if bare.endswith((".tar", ".tgz")):
                yield from read_tar(path, stream, mark, parts)
            else:
                yield from read_member(stream, bare, path.name, mark, parts)


def read_member(stream: Stream, name: str, where: str, mark: str, parts: Sequence[str]) -> Iterator[Read]:
    """The stories of one file, by its name's ending."""
    if name.endswith(".json"):
        yield from read_json_values(stream, where, parts)
    elif name.endswith(".csv"):
        yield from read_csv(stream, where)
    elif name.endswith((".jsonl", ".ndjson")):
        for place, raw, whole in split(stream, LINE):
            yield from read_line(raw, f"{where}:{place}", whole)
    else:
        head = stream.peek(CHUNK)
        separator = re.compile(re.escape(mark.encode())) if mark.encode() in head else UNMARKED
        for place, raw, whole in split(stream, separator):
            yield from read_raw(raw, f"{where}:{place}", whole)


def read_tar(path: Path, stream: Stream, mark: str, parts: Sequence[str]) -> Iterator[Read]:
    """The stories of every text file in a tar archive, without unpacking it."""
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                safe = PurePosixPath(member.name)
                if not member.isfile() or safe.name.startswith("."):
                    continue
                if safe.is_absolute() or ".." in safe.parts:
                    yield Read("", f"{path.name}/{member.name}", "unsafe path")
                    continue
                inside: Any = archive.extractfile(member)
                if inside is not None and safe.suffix in (".json", ".jsonl", ".ndjson", ".txt", ".csv"):
                    yield from read_member(
                        io.BufferedReader(Guarded(path, inside, 1 << 50), CHUNK),
                        safe.name.lower(),
                        safe.name,
                        mark,
                        parts,
                    )
    except tarfile.TarError as error:
        raise FileProblem(
            f"{path} is not a whole tar archive ({error}); fetch it again, the build goes on from there"
        ) from error


def read_json_values(stream: Stream, where: str, parts: Sequence[str]) -> Iterator[Read]:
    """The values of a JSON array (or of values one after another), one at a time, whatever the array's size."""
    decoder, text, number = json.JSONDecoder(), "", 0
    incremental = io.TextIOWrapper(stream, encoding="utf-8", errors="replace")
    ended = False
    while not ended or text:
        more = incremental.read(CHUNK)
        ended = not more
        text += more
        place = 0
        while True:
            while place < len(text) and text[place] in " \t\r\n,[]":
                place += 1
            try:
                value, place = decoder.raw_decode(text, place)
            except ValueError:
                break
            if wanted(value, parts):
                try:
                    yield Read(text_of(value), f"{where}:{number}")
                except ValueError:
                    yield Read(str(value)[:2000], f"{where}:{number}", "broken line")
            number += 1
        text = text[place:]
        if ended and not text:
            return
        if ended or len(text) > LONGEST_STORY_BYTES + CHUNK:
            yield Read(text[:2000], f"{where}:{number}", "broken line")
            number += 1
            following = text.find("\n", 1)
            text = text[following:] if following > 0 else ""


def wanted(value: object, parts: Sequence[str]) -> bool:
    """Whether a record belongs to the chosen parts (GPT-3.5, GPT-4); one that names no part does."""
    part = value.get("source") if isinstance(value, dict) else None
    return not parts or not isinstance(part, str) or part in parts


def read_csv(stream: Stream, where: str) -> Iterator[Read]:
    """The text column of a CSV file with a header line."""
    csv.field_size_limit(LONGEST_STORY_BYTES)
    rows = csv.reader(io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline=""))
    header = next(rows, [])
    column = next(
        (header.index(key) for key in ("text", "story", "content", "completion") if key in header), None
    )
    if column is None:
        raise FileProblem(
            f"{where} has the columns {', '.join(header)[:200]}, none of them text; name one text or story"
        )
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield Read(str(error), f"{where}:{rows.line_num}", "broken line")
            continue
        yield (
            Read(row[column], f"{where}:{rows.line_num}")
            if len(row) > column
            else Read(str(row), f"{where}:{rows.line_num}", "broken line")
        )


def read_parquet(path: Path) -> Iterator[Read]:
    """A Parquet file whose row groups are too large to hold."""
    with parquet(path) as opened:
        number = 0
        for batch in opened.iter_batches(batch_size=2000, columns=[text_column(opened, path)]):
            for text in batch.column(0).to_pylist():
                yield (
                    Read(text, f"{path.name}:{number}")
                    if isinstance(text, str)
                    else Read("", f"{path.name}:{number}", "broken line")
                )
                number += 1


def split(stream: Stream, separator: re.Pattern[bytes]) -> Iterator[tuple[int, bytes, bool]]:
    """What stands between separators: its place, its bytes, and whether that is all of it."""
    data, base, skipping = b"", 0, False
    while more := stream.read(CHUNK):
        data += more
        begin = 0
        for found in separator.finditer(data, 0, max(0, len(data) - 64)):
            if not skipping:
                yield base + begin, data[begin : found.start()], True
            skipping, begin = False, found.end()
        data, base = data[begin:], base + begin
        if len(data) > LONGEST_STORY_BYTES:
            if not skipping:
                yield base, data, False
            skipping, data, base = True, data[-64:], base + len(data) - 64
    begin = 0
    for found in separator.finditer(data):
        if not skipping:
            yield base + begin, data[begin : found.start()], True
        skipping, begin = False, found.end()
    if not skipping:
        yield base + begin, data[begin:], True
