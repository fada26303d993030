"""Build a corpus folder: read the sources, clean, drop duplicates and leaks, split, write.

In: a CorpusConfig. Out: text/train-*.parquet, text/val-*.parquet (columns text, source, id), dropped/*.parquet
(with reason), meta.json.
Beware: a story goes to train or val by the hash of its own words, so adding data never moves one across.
"""

from __future__ import annotations

import hashlib
import logging
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from smalltale.corpus.document import Document
from smalltale.corpus.fable import stories
from smalltale.errors import FileProblem, RecipeError
from smalltale.files import explained, new_folder, provenance, read_json, read_stories, sha256_of, write_json

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """What goes into a corpus and what stays out."""

    sources: tuple[str, ...] = ("fable",)
    """Short names or paths of text, in the order of preference."""
    stories: int = 20_000
    """How many stories `fable` tells."""
    seed: int = 1
    """Of fable's stories and of the order of the train split."""
    validation: str | None = None
    """A text file whose stories are the val split; none of them stays in train."""
    validation_share: float = 0.01
    """Share of the stories that go to val, chosen by hash, where `validation` names no file; 0 < share < 1."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise RecipeError(
                "corpus.sources is empty; name at least one file or short name, for example fable"
            )
        if not 0 < self.validation_share < 1:
            raise RecipeError(
                f"corpus.validation_share is {self.validation_share}; choose a share above 0 and below 1"
            )
        if self.stories < 1:
            raise RecipeError(f"corpus.stories is {self.stories}; choose at least 1")


@dataclass(frozen=True, kw_only=True)
class CorpusSummary:
    """What a build wrote."""

    train_stories: int
    val_stories: int
    dropped: dict[str, int]
    """Stories dropped, by reason."""
    bytes: int
    """UTF-8 bytes of all stories kept."""
    seconds: float


def build_corpus(config: CorpusConfig, out: Path, recipe: dict[str, Any] | None = None) -> CorpusSummary:
    """Write the corpus folder `out`. Raises FileProblem for a source that is missing, empty or broken."""
    began = time.monotonic()
    val = (
        [
            Document(text, "validation", f"validation-{i}")
            for i, text in enumerate(read_stories(Path(config.validation)))
        ]
        if config.validation
        else []
    )
    seen = {words_hash(each.text) for each in val}
    train: list[Document] = []
    dropped: list[tuple[Document, str]] = []
    for done, document in enumerate(read_sources(config)):
        key = words_hash(document.text)
        if key in seen:
            dropped.append((document, "duplicate"))
            continue
        seen.add(key)
        if not config.validation and int.from_bytes(key, "big") < config.validation_share * 2**128:
            val.append(document)
        else:
            train.append(document)
        if done % 5000 == 0:
            log.info("reading", extra={"done": done, "unit": "stories"})
    random.Random(config.seed).shuffle(train)
    if not train or not val:
        raise FileProblem(
            f"{len(train)} stories for train and {len(val)} for val; both need one, give more text"
        )
    with new_folder(out) as folder:
        write(folder / "text" / "train-00000.parquet", train)
        write(folder / "text" / "val-00000.parquet", val)
        write(
            folder / "dropped" / "dropped-00000.parquet",
            [d for d, _ in dropped],
            [reason for _, reason in dropped],
        )
        summary = CorpusSummary(
            train_stories=len(train),
            val_stories=len(val),
            dropped={"duplicate": len(dropped)} if dropped else {},
            bytes=sum(len(each.text.encode()) for each in train + val),
            seconds=time.monotonic() - began,
        )
        inputs = {
            name: sha256_of(Path(name))
            for name in (*config.sources, config.validation)
            if name and name != "fable"
        }
        counts = {"train_stories": len(train), "val_stories": len(val), "bytes": summary.bytes}
        write_json(
            folder / "meta.json",
            {
                **provenance(recipe=recipe, inputs=inputs, counts=counts, seconds=summary.seconds),
                "kind": "corpus",
                "format": 1,
            },
        )
    return summary


def read_corpus(folder: Path, split: Literal["train", "val"]) -> Iterator[Document]:
    """The documents of a split in their order. Raises FileProblem where `folder` is no corpus folder."""
    meta = read_json(folder / "meta.json")
    if meta.get("kind") != "corpus":
        raise FileProblem(
            f"{folder} holds {meta.get('kind')!r}, not a corpus; build one with: smalltale corpus build"
        )
    shards = sorted((folder / "text").glob(f"{split}-*.parquet"))
    if not shards:
        raise FileProblem(
            f"{folder} has no text/{split}-*.parquet; build it anew with: smalltale corpus build"
        )
    for shard in shards:
        try:
            with explained(shard), pq.ParquetFile(shard) as opened:
                for batch in opened.iter_batches(columns=["text", "source", "id"]):
                    yield from map(Document, *(column.to_pylist() for column in batch.columns))
        except pa.ArrowInvalid as error:
            raise FileProblem(f"{shard} is not whole Parquet ({error}); build the corpus anew") from error


def read_sources(config: CorpusConfig) -> Iterator[Document]:
    """Every document of every source, in order."""
    for source in config.sources:
        texts = stories(config.seed, config.stories) if source == "fable" else read_stories(Path(source))
        for number, text in enumerate(texts):
            yield Document(text, source, f"{Path(source).stem}-{number}")


def words_hash(text: str) -> bytes:
    """A hash of the words alone: case, punctuation and white space do not count."""
    return hashlib.blake2b(" ".join(re.findall(r"\w+", text.lower())).encode(), digest_size=16).digest()


def write(path: Path, documents: list[Document], reasons: list[str] | None = None) -> None:
    """One Parquet shard."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: [getattr(each, name) for each in documents] for name in Document._fields}
    if reasons is not None:
        columns["reason"] = reasons
    pq.write_table(
        pa.table({name: pa.array(column, pa.string()) for name, column in columns.items()}),
        path,
        compression="zstd",
    )
