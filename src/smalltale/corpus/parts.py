"""The intermediate files of a build, one part for each piece of a source.

NAME.arrow has the kept stories (train stories by rising position, then validation stories), NAME.bounds.npy the first
row of each of its record batches, NAME.npz the hashes and MinHash signatures, NAME.bands.npy the MinHash bands,
NAME.dropped.parquet the dropped documents. NAME.json, the summary, is written last and marks a complete part.
A part has the same bytes whichever process writes it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from smalltale.corpus.batch import Batch, Step
from smalltale.corpus.config import CorpusConfig
from smalltale.corpus.document import SourceDocument
from smalltale.corpus.hashing import hash_stories, utf8_length
from smalltale.corpus.sources.pieces import Piece, read_piece
from smalltale.corpus.steps.dedup import minhash
from smalltale.corpus.steps.mixture import base_positions, is_in_validation
from smalltale.files import atomic_file, read_json, translate_os_errors

TEXT_SCHEMA = pa.schema([(name, pa.string()) for name in ("text", "source", "id")])
DROPPED_SCHEMA = pa.schema([(name, pa.string()) for name in ("text", "source", "id", "reason", "detail")])
EMPTY_BATCH = pa.RecordBatch.from_pylist([], schema=TEXT_SCHEMA)
MAX_DROPPED_CHARACTERS = 20_000
"""Characters of a dropped text that are stored."""


@dataclass(frozen=True, kw_only=True)
class PartSummary:
    """What happened to the documents of one piece."""

    source: str
    read: int
    read_bytes: int
    kept: int
    words: int
    fixes: dict[str, int]
    drops: dict[str, int]


def part_stem(folder: Path, number: int) -> Path:
    return folder / f"part-{number:05d}"


def prepare_part(
    folder: Path, number: int, piece: Piece, steps: Sequence[Step], config: CorpusConfig, train_shards: int
) -> PartSummary:
    """Run the documents of a piece through the steps and write its part, unless it is complete already."""
    stem = part_stem(folder, number)
    summary_file = stem.with_suffix(".json")
    if summary_file.exists():
        return PartSummary(**json.loads(summary_file.read_text(encoding="utf-8")))
    batch = Batch(list(read_piece(piece, config.mark, config.seed)))
    read_bytes = sum(utf8_length(document.text) for document in batch.documents)
    for step in steps:
        batch = step(batch)
    write_stories(stem, piece.source.name, batch, config, train_shards)
    write_dropped(stem.with_suffix(".dropped.parquet"), piece.source.name, batch.dropped)
    summary = PartSummary(
        source=piece.source.name,
        read=len(batch.documents),
        read_bytes=read_bytes,
        kept=len(batch.kept),
        words=len(batch.word_hashes.hashes),
        fixes=dict(sorted(Counter(fix for document in batch.documents for fix in document.fixes).items())),
        drops=dict(sorted(Counter(str(document.reason) for document in batch.dropped).items())),
    )
    with atomic_file(summary_file) as temporary:
        temporary.write_text(json.dumps(asdict(summary)), encoding="utf-8")
    return summary


def write_stories(stem: Path, source: str, batch: Batch, config: CorpusConfig, train_shards: int) -> None:
    """Write the kept stories, sorted by position, and what later steps need to know of them.

    The stories of one train shard are one record batch, so that writing a shard reads only its own rows.
    """
    keys = hash_stories(batch.word_hashes)
    in_validation = is_in_validation(keys, config.hashed_validation_share)
    positions = base_positions(keys, config.seed)
    order = np.lexsort((np.arange(len(keys)), positions, in_validation))
    shards = np.minimum((positions * train_shards).astype(np.int64), train_shards - 1)
    shards = np.where(in_validation, train_shards, shards)[order]
    bounds = np.searchsorted(shards, np.arange(train_shards + 2))
    stories = [batch.kept[row] for row in order]
    with atomic_file(stem.with_suffix(".arrow")) as temporary:
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_file(str(temporary), TEXT_SCHEMA, options=options) as file:
            table = pa.table(document_columns(stories, source), schema=TEXT_SCHEMA)
            for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
                rows = table.slice(start, end - start).combine_chunks()
                for record_batch in rows.to_batches() or [EMPTY_BATCH]:
                    file.write_batch(record_batch)
    write_array(stem.with_suffix(".bounds.npy"), bounds[:-1])
    arrays: dict[str, NDArray[Any]] = {
        "keys": keys[order],
        "lengths": np.array([utf8_length(story.text) for story in stories], np.int32),
        "in_validation": in_validation[order],
        "read_order": order.astype(np.int32),
    }
    if config.finds_near_duplicates:
        sketches = minhash(batch.word_hashes)
        arrays |= {"signatures": sketches.signatures[order]}
        write_array(stem.with_suffix(".bands.npy"), sketches.bands[:, order])
    with atomic_file(stem.with_suffix(".npz")) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def write_dropped(path: Path, source: str, documents: Sequence[SourceDocument]) -> None:
    shortened = [document._replace(text=document.text[:MAX_DROPPED_CHARACTERS]) for document in documents]
    columns = document_columns(shortened, source)
    columns |= {name: [getattr(document, name) for document in documents] for name in ("reason", "detail")}
    with atomic_file(path) as temporary:
        pq.write_table(pa.table(columns, schema=DROPPED_SCHEMA), temporary, compression="zstd")


def document_columns(documents: Sequence[SourceDocument], source: str) -> dict[str, list[Any]]:
    """Return the columns text (lone surrogates replaced), source and id."""
    return {
        "text": [document.text.encode("utf-8", "replace").decode() for document in documents],
        "source": [source] * len(documents),
        "id": [document.id for document in documents],
    }


def write_array(path: Path, array: NDArray[Any]) -> None:
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def load_arrays(folder: Path, parts: int, name: str) -> Iterator[NDArray[Any]]:
    """Yield one array of each part in order."""
    for number in range(parts):
        with np.load(part_stem(folder, number).with_suffix(".npz")) as arrays:
            yield arrays[name]


def read_rows(
    folder: Path, part: NDArray[np.int32], row: NDArray[np.int32], columns: Sequence[str] = TEXT_SCHEMA.names
) -> pa.Table:
    """Return rows of several parts in the order given; part -1 is the validation file."""
    order = np.lexsort((row, part))
    tables = []
    for number in np.unique(part).tolist():
        rows = row[order][part[order] == number].astype(np.int64)
        read = read_validation_rows if number < 0 else read_part_rows
        tables.append(read(folder, number, rows, columns))
    if not tables:
        return TEXT_SCHEMA.empty_table().select(list(columns))
    inverse_order = np.empty(len(order), np.int64)
    inverse_order[order] = np.arange(len(order))
    return pa.concat_tables(tables).combine_chunks().take(pa.array(inverse_order))


def read_part_rows(folder: Path, number: int, rows: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
    """Return rows (rising numbers) of one part, reading only the record batches that contain them."""
    stem = part_stem(folder, number)
    options = pa.ipc.IpcReadOptions(included_fields=[TEXT_SCHEMA.get_field_index(name) for name in columns])
    tables = []
    with translate_os_errors(stem), pa.memory_map(str(stem.with_suffix(".arrow"))) as mapped:
        file = pa.ipc.open_file(mapped, options=options)
        bounds = np.load(stem.with_suffix(".bounds.npy"))
        batch_of_row = np.searchsorted(bounds, rows, side="right") - 1
        for batch_number in np.unique(batch_of_row).tolist():
            batch_rows = rows[batch_of_row == batch_number] - bounds[batch_number]
            tables.append(pa.Table.from_batches([file.get_batch(batch_number)]).take(pa.array(batch_rows)))
    return pa.concat_tables(tables)


def read_validation_rows(
    folder: Path, number: int, rows: NDArray[np.int64], columns: Sequence[str]
) -> pa.Table:
    """Return rows of the validation file."""
    texts = read_json(folder / "validation.json")
    documents = [SourceDocument(texts[row], f"validation-{row}") for row in rows.tolist()]
    return pa.table(document_columns(documents, "validation"), schema=TEXT_SCHEMA).select(list(columns))
