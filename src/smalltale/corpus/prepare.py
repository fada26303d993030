"""The first pass over a corpus: a piece of a source becomes a part, cleaned, hashed and sorted, on its own.

In: a Piece. Out: in the work folder, NAME.arrow (text, source, id by rising place), NAME.npz (keys and sketches of
its stories), NAME.dropped.parquet and, last, NAME.json with the counts, which says that the part is whole.
Beware: a part is the same bytes whichever process makes it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from smalltale.corpus.clean import clean
from smalltale.corpus.dedupe import Leaks, sketch
from smalltale.corpus.mix import base_places, in_validation
from smalltale.corpus.shingles import hash_words, story_keys
from smalltale.corpus.sources import Piece, Read, read_piece
from smalltale.corpus.vocabulary import Guard
from smalltale.files import explained, new_file

TEXT_SCHEMA = pa.schema([("text", pa.string()), ("source", pa.string()), ("id", pa.string())])
DROPPED_SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("source", pa.string()),
        ("id", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)
LONGEST_DROPPED = 20_000
"""Characters of a dropped text that are kept."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What every piece of a build is prepared with; small enough to send to each worker."""

    work: Path
    seed: int
    mark: str
    cleaning: bool
    minimum_words: int
    validation_share: float
    """0 where a validation file is given."""
    near: bool
    slots: int
    """Into how many runs of places the rows of a part are cut, so that a shard reads only what it needs."""


@dataclass
class PartCounts:
    """What happened in one piece."""

    source: str
    read: int = 0
    read_bytes: int = 0
    kept: int = 0
    kept_bytes: int = 0
    words: int = 0
    mends: dict[str, int] = field(default_factory=dict)
    drops: dict[str, int] = field(default_factory=dict)


def part_name(number: int) -> str:
    return f"part-{number:05d}"


def prepare(number: int, piece: Piece, how: Preparation) -> PartCounts:
    """Make the part of one piece, or read its counts where it is there already."""
    stem = how.work / part_name(number)
    done = stem.with_suffix(".json")
    if done.exists():
        return PartCounts(**json.loads(done.read_text(encoding="utf-8")))
    counts = PartCounts(source=piece.source.name)
    kept, dropped = sieve(piece, how, counts)
    words = hash_words([each.text for each in kept])
    leaks = leaks_in(how.work).find(words) if (how.work / "leaks.npz").exists() else {}
    for row in sorted(leaks, reverse=True):
        dropped.append((kept[row], "leak", leak_names(how.work)[leaks[row]]))
    if leaks:
        kept = [each for row, each in enumerate(kept) if row not in leaks]
        words = hash_words([each.text for each in kept])
    write_part(stem, piece.source.name, kept, words_of=words, how=how)
    write_dropped(stem.with_suffix(".dropped.parquet"), dropped, piece.source.name)
    counts.kept, counts.words = len(kept), len(words.hashes)
    counts.kept_bytes = sum(byte_length(each.text) for each in kept)
    counts.drops = dict(sorted(Counter(reason for _, reason, _ in dropped).items()))
    with new_file(done) as temporary:
        temporary.write_text(json.dumps(asdict(counts)), encoding="utf-8")
    return counts


def sieve(
    piece: Piece, how: Preparation, counts: PartCounts
) -> tuple[list[Read], list[tuple[Read, str, str]]]:
    """The stories of a piece that the rules keep, and those they drop with the reason."""
    kept: list[Read] = []
    dropped: list[tuple[Read, str, str]] = []
    mends: Counter[str] = Counter()
    guard = guard_in(how.work) if piece.source.kind == "wiki" else None
    for read in read_piece(piece, how.mark, how.seed):
        counts.read += 1
        counts.read_bytes += byte_length(read.text)
        if read.reason is not None:
            dropped.append((read, read.reason, ""))
            continue
        if guard is not None:
            guarded = guard.article(read.text)
            if guarded.reason is not None:
                dropped.append((read, guarded.reason, guarded.detail))
                continue
            read = read._replace(text=guarded.text)
        if not how.cleaning:
            kept.append(read._replace(text=read.text.strip()))
            continue
        result = clean(read.text, how.minimum_words)
        if result.reason is not None:
            dropped.append((read, result.reason, ""))
        else:
            mends.update(result.mends)
            kept.append(read._replace(text=result.text))
    counts.mends = dict(sorted(mends.items()))
    return kept, dropped


def write_part(stem: Path, source: str, kept: Sequence[Read], words_of: Any, how: Preparation) -> None:
    """The stories that stay, by rising place, held-out ones last, one record batch a slot."""
    keys = story_keys(words_of)
    held_out = in_validation(keys, how.validation_share)
    places = base_places(keys, how.seed)
    order = np.lexsort((np.arange(len(keys)), places, held_out))
    slot = np.where(held_out, how.slots, np.minimum((places * how.slots).astype(np.int64), how.slots - 1))[
        order
    ]
    table = table_of([kept[i] for i in order], source)
    bounds = np.searchsorted(slot, np.arange(how.slots + 2))
    with new_file(stem.with_suffix(".arrow")) as temporary, explained(stem):
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_file(str(temporary), TEXT_SCHEMA, options=options) as out:
            for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
                for batch in table.slice(begin, end - begin).combine_chunks().to_batches() or [empty_batch()]:
                    out.write_batch(batch)
    arrays: dict[str, NDArray[Any]] = {
        "keys": keys[order],
        "lengths": np.array([byte_length(kept[i].text) for i in order], np.int32),
        "held_out": held_out[order],
        "first": order.astype(np.int32),
        "words": words_of.counts[order].astype(np.int32),
    }
    if how.near:
        sketches = sketch(words_of)
        arrays |= {"signatures": sketches.signatures[order]}
        with (
            new_file(stem.with_suffix(".bands.npy")) as temporary,
            explained(stem),
            temporary.open("wb") as opened,
        ):
            np.save(opened, sketches.bands[:, order])
    with new_file(stem.with_suffix(".npz")) as temporary, explained(stem), temporary.open("wb") as opened:
        np.savez(opened, **arrays)  # type: ignore[arg-type]


def byte_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def table_of(reads: Sequence[Read], source: str) -> pa.Table:
    return pa.table(
        [
            pa.array([each.text.encode("utf-8", "replace").decode() for each in reads], pa.string()),
            pa.array([source] * len(reads), pa.string()),
            pa.array([each.id for each in reads], pa.string()),
        ],
        schema=TEXT_SCHEMA,
    )


def empty_batch() -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], pa.string())] * 3, schema=TEXT_SCHEMA)


def write_dropped(path: Path, dropped: Sequence[tuple[Read, str, str]], source: str) -> None:
    columns = {
        "text": [each.text[:LONGEST_DROPPED].encode("utf-8", "replace").decode() for each, _, _ in dropped],
        "source": [source] * len(dropped),
        "id": [each.id for each, _, _ in dropped],
        "reason": [reason for _, reason, _ in dropped],
        "detail": [detail for _, _, detail in dropped],
    }
    with new_file(path) as temporary:
        pq.write_table(pa.table(columns, schema=DROPPED_SCHEMA), temporary, compression="zstd")


def read_rows(
    stem: Path, rows: NDArray[np.int64], columns: Sequence[str] = ("text", "source", "id")
) -> pa.Table:
    """The given rows of a part (rising numbers); only the record batches that hold them are read."""
    fields = [TEXT_SCHEMA.get_field_index(name) for name in columns]
    options = pa.ipc.IpcReadOptions(included_fields=fields)
    chosen = []
    with explained(stem), pa.memory_map(str(stem.with_suffix(".arrow"))) as mapped:
        opened = pa.ipc.open_file(mapped, options=options)
        bounds = batch_bounds(stem)
        first = np.searchsorted(bounds, rows, side="right") - 1
        for number in np.unique(first).tolist():
            batch = opened.get_batch(number)
            chosen.append(
                pa.Table.from_batches([batch]).take(pa.array(rows[first == number] - bounds[number]))
            )
    return (
        pa.concat_tables(chosen)
        if chosen
        else pa.table({name: pa.array([], pa.string()) for name in columns})
    )


@lru_cache(maxsize=1024)
def batch_bounds(stem: Path) -> NDArray[np.int64]:
    """The row at which each record batch of a part begins."""
    with pa.memory_map(str(stem.with_suffix(".arrow"))) as mapped:
        opened = pa.ipc.open_file(mapped, options=pa.ipc.IpcReadOptions(included_fields=[2]))
        sizes = [opened.get_batch(i).num_rows for i in range(opened.num_record_batches)]
    return np.concatenate([[0], np.cumsum(sizes)])[:-1].astype(np.int64)


@lru_cache(maxsize=1)
def leaks_in(work: Path) -> Leaks:
    return Leaks.load(work / "leaks.npz")


@lru_cache(maxsize=1)
def leak_names(work: Path) -> list[str]:
    return list(json.loads((work / "leaks.json").read_text(encoding="utf-8")))


@lru_cache(maxsize=1)
def guard_in(work: Path) -> Guard:
    return Guard.load(work / "guard.json")


def load_keys(work: Path, numbers: Sequence[int], name: str) -> Iterator[NDArray[Any]]:
    """One array of each part, in order."""
    for number in numbers:
        with np.load((work / part_name(number)).with_suffix(".npz")) as arrays:
            yield arrays[name]
