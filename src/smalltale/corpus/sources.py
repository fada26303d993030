"""Where text comes from: short names, files, folders and globs, cut into pieces that any worker can read.

In: the names of a recipe. Out: Sources, their Pieces in a fixed order, and the stories of a piece.
Beware: pieces depend only on the input, never on how many processes read them, so a build's bytes do not either.
"""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from smalltale.corpus import fable
from smalltale.corpus.clean import decode
from smalltale.errors import FileProblem
from smalltale.files import END_OF_STORY, explained, sha256_of

PIECE_BYTES = 8_000_000
LONGEST_STORY_BYTES = 1_000_000
"""A story longer than this is not read to its end; its beginning is dropped as very long."""
FABLE_PIECE = 10_000
FABLE_STORY_BYTES = 800
TEXT_KEYS = ("text", "story", "content", "completion")
PLAIN_FORMS = {".txt": "text", ".jsonl": "lines", ".ndjson": "lines", ".parquet": "parquet"}
STREAM_FORMS = (".csv", ".json", ".gz", ".tgz", ".tar")
OPENINGS = (
    b"Once upon a time|Once,? there|Once,? (?:a|in|on)\\b|There once|There (?:was|lived) (?:once )?an? |A long time ago|Long,? long ago|Long ago"
    b"|(?:One (?!day)|On a|It was a)\\b[^.\\n]{3,70} (?:named|called) [A-Z]"
    b"|[A-Z][a-z]+ and [A-Z][a-z]+ (?:are|were) (?:\\w+ )?(?:friends|twins|siblings|brothers|sisters|brother)\\b"
)
UNMARKED = re.compile(b"\\n[ \\t\\r]*\\n\\s*(?=(?:" + OPENINGS + b"))")
"""Where a text has no marks, a paragraph that opens a tale begins a story."""
LINE = re.compile(b"\\n")
HEAD_BYTES = 16_000_000
CHUNK = 65_536
MARGIN = 256
"""Bytes read around a piece so that a separator across its edge is seen whole."""


class Read(NamedTuple):
    """A story as it stood in the source."""

    text: str
    id: str
    reason: str | None = None
    """Why it cannot be read (a name in clean.DROPS), None where it can."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A published file and what is known of it."""

    repository: str
    pattern: str
    """A file of the repository, or globs of them with | between, the first that fits counts."""
    size: int | None = None
    sha256: str | None = None
    kind: str = "stories"


PUBLISHED = {
    "tinystories-tar": Origin(repository="roneneldan/TinyStories", pattern="TinyStories_all_data.tar.gz"),
    "tinystories-v2": Origin(
        repository="roneneldan/TinyStories",
        pattern="TinyStoriesV2-GPT4-train.txt",
        size=2_227_753_162,
        sha256="6418d412de72888f52b5142c761ac21a582f7d1166f0bfbdb5f03ccfdec90443",
    ),
    "tinystories-v2-valid": Origin(
        repository="roneneldan/TinyStories",
        pattern="TinyStoriesV2-GPT4-valid.txt",
        size=22_502_601,
        sha256="6874bae9a4c1a4e7edcf0e53b86c17817e9cf881fc75ff2368da457b80c0585d",
    ),
    "tinystories-v1": Origin(repository="roneneldan/TinyStories", pattern="TinyStories-train.txt"),
    "tinystories-v1-valid": Origin(repository="roneneldan/TinyStories", pattern="TinyStories-valid.txt"),
    "tinystories-v1-parquet": Origin(repository="roneneldan/TinyStories", pattern="data/train-*.parquet"),
    "simplewiki": Origin(
        repository="lsb/simplewiki2023",
        pattern="*.parquet|*.jsonl|*.jsonl.gz|*.json|*.json.gz|*.csv|*.txt",
        kind="wiki",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file of a source (fable has none)."""

    name: str
    path: str
    form: str
    """text, lines, parquet, stream or fable."""
    kind: str = "stories"
    """`wiki` texts go through the vocabulary guard."""
    size: int
    """Bytes; for fable, about."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a source: bytes [start, stop) of a text, row groups of a Parquet file, story numbers of fable."""

    source: Source
    start: int
    stop: int
    reads: tuple[Read, ...] | None = field(default=None, repr=False)
    """The stories themselves where the source can only be read in order."""


def find_sources(names: Sequence[str], fable_stories: int) -> list[Source]:
    """Every file that `names` stand for: a short name, NAME=PATH, a file, a folder or a glob. Raises FileProblem."""
    found: list[Source] = []
    for name in names:
        if name == "fable":
            found.append(Source(name=name, path="", form="fable", size=fable_stories * FABLE_STORY_BYTES))
            continue
        short, equals, place = name.partition("=")
        origin = PUBLISHED.get(short)
        if origin and not equals:
            from smalltale.corpus.hub import fetch

            paths = fetch(origin.repository, origin.pattern)
        else:
            paths = files_at(place if origin and equals else name)
        for path in paths:
            if origin:
                check(path, short, origin)
            found.append(
                describe(path, short if origin else Path(name).name, origin.kind if origin else "stories")
            )
    return found


def files_at(place: str) -> list[Path]:
    """The files that a path, folder or glob names, in the order of their names."""
    path = Path(place)
    if path.is_dir():
        paths = sorted(
            each
            for each in path.rglob("*")
            if each.is_file() and form_of(each) and not each.name.startswith(".")
        )
        if not paths:
            raise FileProblem(
                f"{place} holds no text that can be read; give .txt, .jsonl, .parquet, .csv, .json or .tar files"
            )
        return paths
    if path.exists():
        return [path]
    paths = sorted(Path(each) for each in glob.glob(place, recursive=True))  # noqa: PTH207  Path.glob takes no absolute pattern
    if not paths:
        known = ", ".join(["fable", *PUBLISHED])
        raise FileProblem(f"{place} does not exist; give a file, folder or glob, or one of: {known}")
    return paths


def describe(path: Path, name: str, kind: str) -> Source:
    """The source that a file is. Raises FileProblem where it is empty or of no known form."""
    form = form_of(path)
    if form is None:
        raise FileProblem(
            f"{path} is of no known form; give .txt, .jsonl, .parquet, .csv, .json, .tar, or one of them with .gz"
        )
    with explained(path):
        size = path.stat().st_size
        with path.open("rb") as opened:
            opened.read(1)
    if not size:
        raise FileProblem(f"{path} is empty; give a file with text in it")
    if form == "parquet" and largest_row_group(path) > 8 * PIECE_BYTES:
        form = "stream"
    return Source(name=name, path=str(path), form=form, kind=kind, size=size)


def form_of(path: Path) -> str | None:
    suffix = path.suffix.lower()
    return PLAIN_FORMS.get(suffix) or ("stream" if suffix in STREAM_FORMS else None)


def check(path: Path, name: str, origin: Origin) -> None:
    """Hold a file against what its publisher says of it."""
    with explained(path):
        size = path.stat().st_size
    if origin.size is not None and size != origin.size:
        raise FileProblem(
            f"{path} has {size:,} bytes, but {name} has {origin.size:,}; fetch it again, or give the path alone if it is another text"
        )
    if origin.sha256 is not None and sha256_of(path) != origin.sha256:
        raise FileProblem(
            f"{path} is not {name}: its SHA-256 differs from the published one; remove it and fetch it again"
        )


def pieces(
    source: Source, mark: str = END_OF_STORY, parts: Sequence[str] = (), fable_stories: int = 0
) -> Iterator[Piece]:
    """The pieces of a source, in order."""
    if source.form == "fable":
        for start in range(0, fable_stories, FABLE_PIECE):
            yield Piece(source=source, start=start, stop=min(start + FABLE_PIECE, fable_stories))
    elif source.form in ("text", "lines"):
        step = min(
            PIECE_BYTES, max(PIECE_BYTES // 8, -(-source.size // 16))
        )  # small files too keep every core busy
        for start in range(0, source.size, step):
            yield Piece(source=source, start=start, stop=min(start + step, source.size))
    elif source.form == "parquet":
        yield from row_group_pieces(source)
    else:
        from smalltale.corpus.streams import batches

        for number, reads in enumerate(batches(Path(source.path), mark, parts, PIECE_BYTES)):
            yield Piece(source=source, start=number, stop=number + 1, reads=tuple(reads))


def read_piece(piece: Piece, mark: str = END_OF_STORY, seed: int = 1) -> Iterator[Read]:
    """The stories of a piece. Raises FileProblem where the file breaks off."""
    source = piece.source
    if piece.reads is not None:
        yield from piece.reads
    elif source.form == "fable":
        for number, text in enumerate(
            fable.stories(seed, piece.stop - piece.start, piece.start), piece.start
        ):
            yield Read(text, f"fable-{seed}-{number}")
    elif source.form == "parquet":
        yield from read_row_groups(piece)
    else:
        separator = LINE if source.form == "lines" else separator_of(Path(source.path), mark)
        name = Path(source.path).name
        with explained(Path(source.path)):
            for start, raw, whole in between(Path(source.path), separator, piece.start, piece.stop):
                where = f"{name}:{start}"
                yield from (
                    read_line(raw, where, whole) if source.form == "lines" else read_raw(raw, where, whole)
                )


def separator_of(path: Path, mark: str) -> re.Pattern[bytes]:
    """The mark where the beginning of the text has it, else the openings of tales."""
    sought, head = mark.encode(), b""
    with path.open("rb") as opened:
        while len(head) < HEAD_BYTES and (more := opened.read(CHUNK)):
            head += more
            if sought in head:
                return re.compile(re.escape(sought))
    return UNMARKED


def between(
    path: Path, separator: re.Pattern[bytes], start: int, stop: int
) -> Iterator[tuple[int, bytes, bool]]:
    """What stands between separators and begins in [start, stop): its place, its bytes, and whether that is all of it."""
    with path.open("rb") as opened:
        base = max(0, start - MARGIN)
        opened.seek(base)
        data = opened.read(stop - base + MARGIN)
        begins = [found.end() + base for found in separator.finditer(data)]
        begins = [0, *begins] if start == 0 else begins
        mine = [begin for begin in begins if start <= begin < stop]
        if not mine:
            return
        while not (found := separator.search(data, mine[-1] - base)):
            more = opened.read(LONGEST_STORY_BYTES // 4)
            if not more or len(data) + base - mine[-1] > LONGEST_STORY_BYTES:
                break
            data += more
        ended = found is not None or not more
        last = found.start() + base if found else len(data) + base
    for begin, following in zip(mine, [*mine[1:], None], strict=True):
        if following is None:
            yield begin, data[begin - base : last - base], ended
        else:
            found = separator.search(data, begin - base)
            assert found is not None
            yield begin, data[begin - base : found.start()], True


def read_raw(raw: bytes, where: str, whole: bool = True) -> Iterator[Read]:
    """One story from its bytes; none where there is only white space."""
    if not whole:
        yield Read(raw[:2000].decode("utf-8", "replace"), where, "very long")
        return
    text = decode(raw.removeprefix(b"\xef\xbb\xbf"))
    if text is None:
        yield Read(raw[:2000].decode("utf-8", "replace"), where, "not UTF-8")
    elif text and not text.isspace():
        yield Read(text, where)


def read_line(raw: bytes, where: str, whole: bool = True) -> Iterator[Read]:
    """One story from a line of JSON."""
    for read in read_raw(raw, where, whole):
        if read.reason is None:
            try:
                yield Read(text_of(json.loads(read.text)), where)
                continue
            except (ValueError, RecursionError):
                read = Read(read.text[:2000], where, "broken line")
        yield read


def text_of(value: Any) -> str:
    """The text in a JSON value or row. Raises ValueError where there is none."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        for key in TEXT_KEYS:
            if isinstance(value.get(key), str):
                return str(value[key])
    raise ValueError("no text")


def largest_row_group(path: Path) -> int:
    with parquet(path) as opened:
        meta = opened.metadata
        return max((meta.row_group(i).total_byte_size for i in range(meta.num_row_groups)), default=0)


def parquet(path: Path) -> pq.ParquetFile:
    """An open Parquet file. Raises FileProblem where it is not whole."""
    try:
        with explained(path):
            return pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise FileProblem(
            f"{path} is not whole Parquet ({str(error).splitlines()[0]}); fetch or write it again"
        ) from error


def row_group_pieces(source: Source) -> Iterator[Piece]:
    with parquet(Path(source.path)) as opened:
        meta = opened.metadata
        start = taken = 0
        for number in range(meta.num_row_groups):
            taken += meta.row_group(number).total_byte_size
            if taken >= PIECE_BYTES or number == meta.num_row_groups - 1:
                yield Piece(source=source, start=start, stop=number + 1)
                start, taken = number + 1, 0


def text_column(opened: pq.ParquetFile, path: Path) -> str:
    for key in TEXT_KEYS:
        if key in opened.schema_arrow.names:
            return key
    raise FileProblem(
        f"{path} has the columns {', '.join(opened.schema_arrow.names)}, none of them text; name one text or story"
    )


def read_row_groups(piece: Piece) -> Iterator[Read]:
    path = Path(piece.source.path)
    with parquet(path) as opened:
        column = text_column(opened, path)
        groups = list(range(piece.start, piece.stop))
        number = sum(opened.metadata.row_group(i).num_rows for i in range(piece.start))
        try:
            for batch in opened.iter_batches(row_groups=groups, columns=[column]):
                for text in batch.column(0).to_pylist():
                    where = f"{path.name}:{number}"
                    number += 1
                    yield Read(text, where) if isinstance(text, str) else Read("", where, "broken line")
        except (pa.ArrowInvalid, OSError) as error:
            raise FileProblem(
                f"{path} breaks off near row {number} ({str(error).splitlines()[0]}); fetch it again"
            ) from error
