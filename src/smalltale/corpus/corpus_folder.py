"""Read a corpus folder, which `build` writes.

Input: a folder with text/train-*.parquet, text/val-*.parquet (columns text, source, id) and meta.json.
Output: Documents, or Arrow record batches without Python objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from smalltale.corpus.document import Document
from smalltale.errors import FileProblem
from smalltale.files import read_json, translate_os_errors

FORMAT = 1


def read_corpus(folder: Path, split: Literal["train", "val"]) -> Iterator[Document]:
    """Yield the documents of a split in order. Raises FileProblem if `folder` is not a corpus folder."""
    for batch in read_batches(folder, split, ["text", "source", "id"]):
        yield from map(Document, *(column.to_pylist() for column in batch.columns))


def read_batches(
    folder: Path, split: Literal["train", "val"], columns: Sequence[str], rows: int = 10_000
) -> Iterator[pa.RecordBatch]:
    """Yield some columns of a split in order, at most `rows` documents at a time."""
    meta = read_json(folder / "meta.json")
    if not isinstance(meta, dict) or meta.get("kind") != "corpus":
        raise FileProblem(f"{folder} is not a corpus folder; build one with: smalltale corpus build")
    if meta.get("format") != FORMAT:
        version = meta.get("format")
        raise FileProblem(f"{folder} has corpus format {version}, smalltale reads {FORMAT}; build it again")
    shards = sorted((folder / "text").glob(f"{split}-*.parquet"))
    if not shards:
        raise FileProblem(f"{folder} has no text/{split}-*.parquet; build it with: smalltale corpus build")
    for shard in shards:
        try:
            with translate_os_errors(shard), pq.ParquetFile(shard, pre_buffer=False) as parquet:
                yield from parquet.iter_batches(batch_size=rows, columns=list(columns))
        except pa.ArrowInvalid as error:
            raise FileProblem(f"{shard} is not complete Parquet ({error}); build the corpus again") from error
