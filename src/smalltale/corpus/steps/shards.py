"""Write the shards of a corpus: plan the order of all stories, then copy their texts from the parts.

Input: the index of all stories and the verdicts on duplicates. Output: text/*.parquet and dropped/*.parquet.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from smalltale.corpus.config import CorpusConfig
from smalltale.corpus.index import StoryIndex
from smalltale.corpus.parts import DROPPED_SCHEMA, TEXT_SCHEMA, PartSummary, part_stem, read_rows
from smalltale.corpus.steps.dedup import KEPT, REASONS, DuplicateVerdicts
from smalltale.corpus.steps.mixture import check_source_names, order_stories, repeats_by_source
from smalltale.corpus.worker_pool import WorkerPool
from smalltale.files import atomic_file, translate_os_errors

log = logging.getLogger(__name__)
PARTS_PER_DROPPED_SHARD = 16
ROW_GROUP = 20_000


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """What is to be written; the rows of each shard are in plan.npz."""

    parts: int
    train_shards: int
    train_rows: int
    val_rows: int
    text_bytes: int
    dropped: dict[str, int]
    """Stories dropped, by reason."""
    sources: dict[str, dict[str, Any]]
    """What happened to the stories of each source."""


def plan_shards(
    work: Path,
    config: CorpusConfig,
    summaries: Sequence[PartSummary],
    index: StoryIndex,
    verdicts: DuplicateVerdicts,
    train_shards: int,
) -> ShardPlan:
    """Mix the sources into the training order and write plan.npz."""
    code, kept_copy = verdicts.code, verdicts.kept_copy
    names = index.source_names
    is_kept = code == KEPT
    is_train = is_kept & ~index.in_validation
    check_source_names("schedule", config.schedule, names)
    counts = np.bincount(index.source[is_train], minlength=len(names)).tolist()
    repeats = repeats_by_source(dict(zip(names, counts, strict=True)), config.weights, config.temperature)
    train = np.flatnonzero(is_train)
    story, position = order_stories(
        index.keys[train], index.source[train], names, repeats, config.schedule, config.seed
    )
    train = train[story]
    val = np.flatnonzero(is_kept & index.in_validation)
    if not config.validation:
        val = val[np.lexsort((index.read_order[val], index.keys[val]))]
    shard = np.minimum((position * train_shards).astype(np.int32), train_shards - 1)
    np.savez(
        work / "plan.npz",
        train=np.stack([index.part[train], index.row[train], shard]),
        val=np.stack([index.part[val], index.row[val], np.zeros(len(val), np.int32)]),
        dropped=np.stack([index.part[~is_kept], index.row[~is_kept], code[~is_kept].astype(np.int32)]),
        kept_copies=np.stack([index.part[kept_copy[~is_kept]], index.row[kept_copy[~is_kept]]]),
    )
    drops = Counter({reason: int(np.count_nonzero(code == number)) for number, reason in REASONS.items()})
    for summary in summaries:
        drops.update(summary.drops)
    return ShardPlan(
        parts=len(summaries),
        train_shards=train_shards,
        train_rows=len(train),
        val_rows=len(val),
        text_bytes=int(index.lengths[train].sum() + index.lengths[val].sum()),
        dropped=positive_counts(drops),
        sources=summarize_sources(summaries, index, code, train),
    )


def summarize_sources(
    summaries: Sequence[PartSummary], index: StoryIndex, code: NDArray[np.uint8], train: NDArray[np.int64]
) -> dict[str, dict[str, Any]]:
    """Count what was read, kept, fixed and dropped of each source, and how often its stories occur in train."""
    table: dict[str, dict[str, Any]] = {}
    in_train = np.bincount(index.source[train], minlength=len(index.source_names))
    for number, name in enumerate(index.source_names):
        own = [summary for summary in summaries if summary.source == name]
        codes = code[~index.is_from_file & (index.source == number)]
        drops = sum((Counter(summary.drops) for summary in own), Counter[str]())
        drops.update({REASONS[reason]: int(np.count_nonzero(codes == reason)) for reason in REASONS})
        table[name] = {
            "read": sum(summary.read for summary in own),
            "read_bytes": sum(summary.read_bytes for summary in own),
            "kept": int(np.count_nonzero(codes == KEPT)),
            "words": sum(summary.words for summary in own),
            "in_train": int(in_train[number]),
            "mended": sum_fixes(own),
            "dropped": positive_counts(drops),
        }
    return table


def sum_fixes(summaries: Sequence[PartSummary]) -> dict[str, int]:
    """Count the fixed stories by rule."""
    return positive_counts(sum((Counter(summary.fixes) for summary in summaries), Counter[str]()))


def positive_counts(counts: Counter[str]) -> dict[str, int]:
    return {name: count for name, count in sorted(counts.items()) if count}


def write_shards(plan: ShardPlan, work: Path, pool: WorkerPool) -> None:
    """Write every shard that does not exist yet."""
    with translate_os_errors(work):
        (work / "text").mkdir(exist_ok=True)
        (work / "dropped").mkdir(exist_ok=True)
    step = PARTS_PER_DROPPED_SHARD
    part_ranges = [range(plan.parts)[start : start + step] for start in range(0, plan.parts, step)]
    jobs: list[tuple[Callable[..., None], tuple[Any, ...]]] = [
        *((write_text_shard, (work, "train", shard)) for shard in range(plan.train_shards)),
        (write_text_shard, (work, "val", 0)),
        *((write_dropped_shard, (work, parts)) for parts in part_ranges),
    ]
    for done, _ in enumerate(pool.run((number, *job) for number, job in enumerate(jobs)), 1):
        log.info("writing", extra={"done": done, "total": len(jobs), "unit": "shards"})


def write_text_shard(work: Path, split: str, shard: int) -> None:
    """Write one shard of a split, its rows in the order of the plan."""
    path = work / "text" / f"{split}-{shard:05d}.parquet"
    if path.exists():
        return
    with np.load(work / "plan.npz") as arrays:
        part, row, shard_of_row = arrays[split]
    own = np.flatnonzero(shard_of_row == shard)
    write_table(path, read_rows(work, part[own], row[own]), TEXT_SCHEMA)


def write_dropped_shard(work: Path, parts: range) -> None:
    """Write what the steps and the search for duplicates dropped from some parts."""
    path = work / "dropped" / f"dropped-{parts.start // PARTS_PER_DROPPED_SHARD:05d}.parquet"
    if path.exists():
        return
    with np.load(work / "plan.npz") as arrays:
        part, row, code = arrays["dropped"]
        kept_part, kept_row = arrays["kept_copies"]
    tables = []
    for number in parts:
        dropped_file = part_stem(work, number).with_suffix(".dropped.parquet")
        tables.append(pq.read_table(dropped_file, schema=DROPPED_SCHEMA))
        own = np.flatnonzero(part == number)
        if len(own):
            kept_ids = read_rows(work, kept_part[own], kept_row[own], ["id"]).column("id")
            reasons = pa.array([REASONS[reason] for reason in code[own].tolist()], pa.string())
            duplicates = read_rows(work, part[own], row[own]).append_column("reason", reasons)
            tables.append(duplicates.append_column("detail", kept_ids).cast(DROPPED_SCHEMA))
    write_table(path, pa.concat_tables(tables), DROPPED_SCHEMA)


def write_table(path: Path, table: pa.Table, schema: pa.Schema) -> None:
    with atomic_file(path) as temporary:
        pq.write_table(
            table.combine_chunks().cast(schema),
            temporary,
            compression="zstd",
            row_group_size=ROW_GROUP,
            use_dictionary=["source"],
        )
