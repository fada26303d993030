"""Resolve the source names of a recipe: published datasets, `fable`, files, folders and globs.

Input: names. Output: one Source for each file.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from smalltale.corpus.sources.hub import download_files
from smalltale.corpus.sources.records import open_parquet
from smalltale.errors import FileProblem
from smalltale.files import sha256_file, translate_os_errors

FABLE_STORY_BYTES = 800
LARGEST_ROW_GROUP_BYTES = 64_000_000
"""A Parquet file with a larger row group is streamed, because a worker reads whole row groups."""
FORMATS = {".txt": "text", ".jsonl": "lines", ".ndjson": "lines", ".parquet": "parquet"} | dict.fromkeys(
    (".csv", ".json", ".gz", ".tgz", ".tar"), "stream"
)
"""How a file is read, by its suffix."""


@dataclass(frozen=True)
class PublishedFile:
    """A file on the Hugging Face Hub and what its publisher says of it."""

    repository: str
    pattern: str
    """A file of the repository, or globs separated by |; the first glob with a match is used."""
    size: int | None = None
    sha256: str | None = None
    kind: str = "stories"


TINYSTORIES = "roneneldan/TinyStories"
PUBLISHED = {
    "tinystories-tar": PublishedFile(TINYSTORIES, "TinyStories_all_data.tar.gz"),
    "tinystories-v2": PublishedFile(
        TINYSTORIES,
        "TinyStoriesV2-GPT4-train.txt",
        size=2_227_753_162,
        sha256="6418d412de72888f52b5142c761ac21a582f7d1166f0bfbdb5f03ccfdec90443",
    ),
    "tinystories-v2-valid": PublishedFile(
        TINYSTORIES,
        "TinyStoriesV2-GPT4-valid.txt",
        size=22_502_601,
        sha256="6874bae9a4c1a4e7edcf0e53b86c17817e9cf881fc75ff2368da457b80c0585d",
    ),
    "tinystories-v1": PublishedFile(TINYSTORIES, "TinyStories-train.txt"),
    "tinystories-v1-valid": PublishedFile(TINYSTORIES, "TinyStories-valid.txt"),
    "tinystories-v1-parquet": PublishedFile(TINYSTORIES, "data/train-*.parquet"),
    "simplewiki": PublishedFile(
        "lsb/simplewiki2023", "*.parquet|*.jsonl|*.jsonl.gz|*.json|*.json.gz|*.csv|*.txt", kind="wiki"
    ),
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file of a source (fable has none)."""

    name: str
    path: str
    format: str
    """text, lines, parquet, stream or fable."""
    kind: str = "stories"
    """`stories` or `wiki`; wiki texts go through the vocabulary filter."""
    size: int
    """Bytes; an estimate for fable."""


def find_sources(names: Sequence[str], fable_stories: int) -> list[Source]:
    """Return every file that `names` refer to: a short name, NAME=PATH, a file, a folder or a glob.

    Raises FileProblem for a name without a file, and for a file that is empty or of an unsupported type.
    """
    sources: list[Source] = []
    for name in names:
        if name == "fable":
            size = fable_stories * FABLE_STORY_BYTES
            sources.append(Source(name=name, path="", format="fable", size=size))
            continue
        short_name, equals, path = name.partition("=")
        published = PUBLISHED.get(short_name)
        if published is None:
            sources += [make_source(file, Path(name).name, "stories") for file in list_files(name)]
            continue
        files = list_files(path) if equals else download_files(published.repository, published.pattern)
        for file in files:
            check_published_file(file, short_name, published)
            sources.append(make_source(file, short_name, published.kind))
    return sources


def list_files(name: str) -> list[Path]:
    """Return the files of a path, folder or glob, sorted by name."""
    path = Path(name)
    if path.is_dir():
        paths = sorted(
            file
            for file in path.rglob("*")
            if file.is_file() and file.suffix.lower() in FORMATS and not file.name.startswith(".")
        )
        if not paths:
            raise FileProblem(f"{name} has no text file; give .txt, .jsonl, .parquet, .csv, .json or .tar")
        return paths
    if path.exists():
        return [path]
    paths = sorted(Path(match) for match in glob.glob(name, recursive=True))  # noqa: PTH207  Path.glob takes no absolute pattern
    if not paths:
        short_names = ", ".join(["fable", *PUBLISHED])
        raise FileProblem(f"{name} does not exist; give a file, folder or glob, or one of: {short_names}")
    return paths


def make_source(path: Path, name: str, kind: str) -> Source:
    """Describe a file as a source. Raises FileProblem if it is empty or of an unsupported type."""
    file_format = FORMATS.get(path.suffix.lower())
    if file_format is None:
        raise FileProblem(
            f"{path} has an unsupported file type; give .txt, .jsonl, .parquet, .csv, .json, .tar, or one of these with .gz"
        )
    with translate_os_errors(path), path.open("rb") as file:
        size = path.stat().st_size
        file.read(1)
    if not size:
        raise FileProblem(f"{path} is empty; give a file with text in it")
    if file_format == "parquet":
        with open_parquet(path) as parquet:
            meta = parquet.metadata
            sizes = (meta.row_group(number).total_byte_size for number in range(meta.num_row_groups))
            file_format = "stream" if max(sizes, default=0) > LARGEST_ROW_GROUP_BYTES else file_format
    return Source(name=name, path=str(path), format=file_format, kind=kind, size=size)


def check_published_file(path: Path, name: str, published: PublishedFile) -> None:
    """Raise FileProblem if a file differs in size or SHA-256 from what its publisher says."""
    with translate_os_errors(path):
        size = path.stat().st_size
    if published.size is not None and size != published.size:
        raise FileProblem(
            f"{path} has {size:,} bytes, but {name} has {published.size:,}; download it again, or give the path without {name}= if it is another text"
        )
    if published.sha256 is not None and sha256_file(path) != published.sha256:
        raise FileProblem(
            f"{path} is not {name}: its SHA-256 differs from the published one; remove it and download it again"
        )
