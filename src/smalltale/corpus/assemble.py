"""The second pass over a corpus: decide over all parts what stays, lay out the order, write the shards.

In: the parts of the work folder. Out: text/*.parquet and dropped/*.parquet beside them.
Beware: only keys and sketches of the whole corpus are held in memory (about 280 bytes a story), texts never.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from smalltale.corpus.dedupe import KEPT, REASONS, Sketches, judge, sketch
from smalltale.corpus.mix import copies, lay_out
from smalltale.corpus.prepare import (
    DROPPED_SCHEMA,
    TEXT_SCHEMA,
    PartCounts,
    Preparation,
    load_keys,
    part_name,
    read_rows,
)
from smalltale.corpus.shingles import hash_words, story_keys
from smalltale.files import explained, new_file, read_json, write_json

log = logging.getLogger(__name__)
Start: TypeAlias = Callable[
    [Iterable[tuple[int, Callable[..., Any], tuple[Any, ...]]]], Iterator[tuple[int, Any]]
]
PARTS_A_DROPPED_SHARD = 16
ROW_GROUP = 20_000


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be written."""

    parts: int
    train_shards: int
    val_shards: int
    train_rows: int
    val_rows: int
    text_bytes: int
    dropped: dict[str, int]
    sources: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Everything:
    """The keys of all stories: those of the validation file first, then part after part."""

    part: NDArray[np.int32]
    """Which part a story lies in, -1 for the validation file's."""
    row: NDArray[np.int32]
    keys: NDArray[np.uint64]
    lengths: NDArray[np.int64]
    held_out: NDArray[np.bool_]
    first: NDArray[np.int64]
    """The order in which the stories were read."""


def plan(
    work: Path,
    counts: Sequence[PartCounts],
    held: Sequence[str],
    how: Preparation,
    threshold: float,
    weights: Mapping[str, float],
    temperature: float,
    schedule: Mapping[str, Sequence[float]],
) -> Plan:
    """Judge duplicates over all parts, lay out the training order, and leave both in the work folder."""
    names = list(dict.fromkeys(each.source for each in counts))
    every, sketches = gather(work, len(counts), held, how)
    log.info(f"looking for copies among {len(every.keys):,} stories")
    verdicts = judge(every.keys, every.lengths, every.part < 0, every.first, sketches, threshold)
    del sketches
    code, winner = verdicts.code, verdicts.winner
    source_of_part = np.array([names.index(each.source) for each in counts], np.int64)
    source_of = source_of_part[np.maximum(every.part, 0)]
    kept = code == KEPT
    in_val = every.held_out if not held else every.part < 0
    kept_counts = Counter(
        {name: int(np.count_nonzero(kept & ~in_val & (source_of == i))) for i, name in enumerate(names)}
    )
    for name in schedule:
        copies(dict.fromkeys(names, 1), {name: 1}, 1.0)  # the same refusal of an unknown name as for weights
    times = copies(kept_counts, weights, temperature)
    train = np.flatnonzero(kept & ~in_val)
    story, place = lay_out(every.keys[train], source_of[train], names, times, schedule, how.seed)
    story = train[story]
    val = np.flatnonzero(kept & in_val)
    if not held:
        val = val[np.lexsort((every.first[val], every.keys[val]))]
    bytes_total = int(every.lengths[story].sum() + every.lengths[val].sum())
    np.savez(
        work / "plan.npz",
        train=np.stack(
            [
                every.part[story],
                every.row[story],
                np.minimum((place * how.slots).astype(np.int32), how.slots - 1),
            ]
        ),
        val=np.stack([every.part[val], every.row[val], np.zeros(len(val), np.int32)]),
        dropped=np.stack([every.part[~kept], every.row[~kept], code[~kept].astype(np.int32)]),
        winners=np.stack([every.part[winner[~kept]], every.row[winner[~kept]]]),
    )
    write_json(work / "val.json", list(held))
    drops = Counter({REASONS[each]: int(np.count_nonzero(code == each)) for each in REASONS})
    sources = summary_of(counts, names, code, source_of, every.part >= 0, story)
    for each in counts:
        drops.update(each.drops)
    return Plan(
        parts=len(counts),
        train_shards=how.slots,
        val_shards=1,
        train_rows=len(story),
        val_rows=len(val),
        text_bytes=bytes_total,
        dropped={reason: number for reason, number in sorted(drops.items()) if number},
        sources=sources,
    )


def gather(
    work: Path, parts: int, held: Sequence[str], how: Preparation
) -> tuple[Everything, StoredSketches | None]:
    """The keys of all stories, and their sketches where near-duplicates are asked for."""
    words = hash_words(held)
    numbers = range(parts)
    sizes = [len(keys) for keys in load_keys(work, numbers, "keys")]
    total = len(held) + sum(sizes)
    starts = np.cumsum([len(held), *sizes])[:-1]
    own_length = np.array([len(text.encode()) for text in held], np.int64)
    every = Everything(
        part=np.concatenate(
            [np.full(len(held), -1, np.int32), np.repeat(np.arange(parts, dtype=np.int32), sizes)]
        ),
        row=np.concatenate(
            [np.arange(len(held), dtype=np.int32), *(np.arange(size, dtype=np.int32) for size in sizes)]
        ),
        keys=np.concatenate([story_keys(words), *load_keys(work, numbers, "keys")]),
        lengths=np.concatenate([own_length, *load_keys(work, numbers, "lengths")]).astype(np.int64),
        held_out=np.concatenate([np.ones(len(held), bool), *load_keys(work, numbers, "held_out")])
        if not held
        else np.concatenate([np.ones(len(held), bool), np.zeros(total - len(held), bool)]),
        first=np.concatenate(
            [
                np.arange(len(held)),
                *(
                    start + each
                    for start, each in zip(starts, load_keys(work, numbers, "first"), strict=True)
                ),
            ]
        ).astype(np.int64),
    )
    if not how.near:
        return every, None
    own = sketch(words)
    signatures = np.empty((total, own.signatures.shape[1]), np.uint8)
    signatures[: len(held)] = own.signatures
    for start, size, part in zip(starts, sizes, load_keys(work, numbers, "signatures"), strict=True):
        signatures[start : start + size] = part
    return every, StoredSketches(work, parts, own, signatures)


@dataclass(frozen=True)
class StoredSketches:
    """Sketches of all stories, their bands read from the parts one at a time."""

    work: Path
    parts: int
    held: Sketches
    signatures: NDArray[np.uint8]

    def band(self, number: int) -> NDArray[np.uint32]:
        stored = ((self.work / part_name(part)).with_suffix(".bands.npy") for part in range(self.parts))
        return np.concatenate(
            [self.held.band(number), *(np.load(path, mmap_mode="r")[number] for path in stored)]
        )


def summary_of(
    counts: Sequence[PartCounts],
    names: Sequence[str],
    code: NDArray[np.uint8],
    source_of: NDArray[np.int64],
    from_parts: NDArray[np.bool_],
    story: NDArray[np.int64],
) -> dict[str, dict[str, Any]]:
    """For each source, what was read, kept, mended, dropped and how often its stories are seen."""
    table: dict[str, dict[str, Any]] = {}
    seen = np.bincount(source_of[story], minlength=len(names))
    for number, name in enumerate(names):
        mine = [each for each in counts if each.source == name]
        drops = sum((Counter(each.drops) for each in mine), Counter[str]())
        drops.update(
            {
                reason: int(np.count_nonzero(from_parts & (source_of == number) & (code == each)))
                for each, reason in REASONS.items()
            }
        )
        table[name] = {
            "read": sum(each.read for each in mine),
            "read_bytes": sum(each.read_bytes for each in mine),
            "kept": int(np.count_nonzero(from_parts & (source_of == number) & (code == KEPT))),
            "words": sum(each.words for each in mine),
            "in_train": int(seen[number]),
            "mended": dict(sorted(sum((Counter(each.mends) for each in mine), Counter[str]()).items())),
            "dropped": {reason: count for reason, count in sorted(drops.items()) if count},
        }
    return table


def write_shards(made: Plan, how: Preparation, start: Start) -> None:
    """Write every shard that is not there yet."""
    work = how.work
    with explained(work):
        (work / "text").mkdir(exist_ok=True)
        (work / "dropped").mkdir(exist_ok=True)
    jobs: list[tuple[int, Callable[..., Any], tuple[Any, ...]]] = []
    for shard in range(made.train_shards):
        jobs.append((len(jobs), write_text, (work, "train", shard)))
    jobs.append((len(jobs), write_text, (work, "val", 0)))
    for shard in range(-(-made.parts // PARTS_A_DROPPED_SHARD)):
        jobs.append((len(jobs), write_dropped, (work, shard, made.parts)))
    for done, _ in enumerate(start(jobs), 1):
        log.info("writing", extra={"done": done, "total": len(jobs), "unit": "shards"})


def write_text(work: Path, split: str, shard: int) -> None:
    """One shard of a split, its rows in the order of the plan."""
    path = work / "text" / f"{split}-{shard:05d}.parquet"
    if path.exists():
        return
    with np.load(work / "plan.npz") as arrays:
        part, row, slot = arrays[split]
    mine = np.flatnonzero(slot == shard)
    write_table(path, fetch(work, part[mine], row[mine], ("text", "source", "id")), TEXT_SCHEMA)


def write_dropped(work: Path, shard: int, parts: int) -> None:
    """What the rules and the search for copies dropped from a run of parts."""
    path = work / "dropped" / f"dropped-{shard:05d}.parquet"
    if path.exists():
        return
    numbers = range(shard * PARTS_A_DROPPED_SHARD, min(parts, (shard + 1) * PARTS_A_DROPPED_SHARD))
    with np.load(work / "plan.npz") as arrays:
        part, row, code = arrays["dropped"]
        won_part, won_row = arrays["winners"]
    tables = []
    for number in numbers:
        tables.append(
            pq.read_table((work / part_name(number)).with_suffix(".dropped.parquet"), schema=DROPPED_SCHEMA)
        )
        mine = np.flatnonzero(part == number)
        if len(mine):
            copies_of = fetch(work, won_part[mine], won_row[mine], ("id",)).column("id")
            table = fetch(work, part[mine], row[mine], ("text", "source", "id"))
            reasons = pa.array([REASONS[each] for each in code[mine].tolist()], pa.string())
            tables.append(
                table.append_column("reason", reasons).append_column("detail", copies_of).cast(DROPPED_SCHEMA)
            )
    write_table(path, pa.concat_tables(tables), DROPPED_SCHEMA)


def write_table(path: Path, table: pa.Table, schema: pa.Schema) -> None:
    with new_file(path) as temporary:
        pq.write_table(
            table.combine_chunks().cast(schema),
            temporary,
            compression="zstd",
            row_group_size=ROW_GROUP,
            use_dictionary=["source"],
        )


def fetch(work: Path, part: NDArray[np.int32], row: NDArray[np.int32], columns: Sequence[str]) -> pa.Table:
    """Rows of several parts, in the order asked for; part -1 is the validation file."""
    order = np.lexsort((row, part))
    tables = []
    for number in np.unique(part).tolist():
        rows = row[order][part[order] == number].astype(np.int64)
        tables.append(
            validation_rows(work, rows, columns)
            if number < 0
            else read_rows(work / part_name(number), rows, columns)
        )
    if not tables:
        return pa.table({name: pa.array([], pa.string()) for name in columns})
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    return pa.concat_tables(tables).combine_chunks().take(pa.array(back))


def validation_rows(work: Path, rows: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
    texts = read_json(work / "val.json")
    table = {
        "text": [texts[row] for row in rows.tolist()],
        "source": ["validation"] * len(rows),
        "id": [f"validation-{row}" for row in rows.tolist()],
    }
    return pa.table({name: pa.array(table[name], pa.string()) for name in columns})
