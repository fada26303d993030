"""Build a corpus folder: read the sources, clean, drop leaks and duplicates, mix, split, write.

Input: a CorpusConfig. Output: text/train-*.parquet, text/val-*.parquet (columns text, source, id), dropped/*.parquet
(with reason and detail), meta.json.
The hash of a story's words assigns it to train or val, so more data moves no story across. The Parquet files have the
same bytes for any number of processes, and a killed build resumes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from smalltale.corpus.batch import Step
from smalltale.corpus.config import CorpusConfig
from smalltale.corpus.corpus_folder import FORMAT
from smalltale.corpus.index import load_index, load_sketches
from smalltale.corpus.parts import PartSummary, prepare_part
from smalltale.corpus.sources.catalog import Source, find_sources
from smalltale.corpus.sources.pieces import read_piece, split_source
from smalltale.corpus.steps.clean import CleanStories, strip_stories
from smalltale.corpus.steps.decontamination import DropLeaks, build_leak_index
from smalltale.corpus.steps.dedup import find_duplicates
from smalltale.corpus.steps.shards import ShardPlan, plan_shards, sum_fixes, write_shards
from smalltale.corpus.steps.vocabulary_filter import prepare_filter
from smalltale.corpus.worker_pool import WorkerPool
from smalltale.errors import FileProblem
from smalltale.files import (
    atomic_file,
    atomic_folder,
    git_commit,
    provenance_record,
    read_stories,
    refuse_foreign_folder,
    sha256_file,
    translate_os_errors,
    write_json,
)
from smalltale.machine import usable_cores
from smalltale.prompts import read_prompts

log = logging.getLogger(__name__)
WORK_VERSION = 4
"""Raised when the code changes what a build writes, so that the work folder of older code is not resumed."""
ONE_PROCESS_BYTES = 20_000_000
"""Below this input size, starting workers costs more than it saves."""
MANY_STORIES = 500_000


@dataclass(frozen=True, kw_only=True)
class CorpusSummary:
    """What a build wrote."""

    train_stories: int
    val_stories: int
    dropped: dict[str, int]
    """Stories dropped, by reason."""
    fixes: dict[str, int]
    """Stories fixed, by rule."""
    bytes: int
    """UTF-8 bytes of all stories written, repeats counted."""
    sources: dict[str, dict[str, Any]]
    """What was read, kept, fixed and dropped of each source."""
    stages: dict[str, float]
    """Seconds of each pass."""
    seconds: float


def build_corpus(config: CorpusConfig, out: Path, recipe: dict[str, Any] | None = None) -> CorpusSummary:
    """Write the corpus folder `out`. Raises FileProblem for a source that is missing, empty or broken.

    Finished work is in a hidden folder next to `out`; the same call after a stop resumes from it.
    """
    started = time.monotonic()
    refuse_foreign_folder(out)
    sources = find_sources(config.sources, config.stories)
    validation_sources = find_sources([config.validation], config.stories) if config.validation else []
    validation = read_validation(config, validation_sources)
    work = open_work_folder(out, config, [*sources, *validation_sources])
    write_json(work / "validation.json", validation)
    train_shards = count_train_shards(config, sources)
    steps, vocabulary_table = prepare_steps(config, sources, validation, work)
    stages: dict[str, float] = {}

    def end_stage(name: str) -> None:
        stages[name] = round(time.monotonic() - started - sum(stages.values()), 3)

    with WorkerPool(count_processes(config, sources)) as pool:
        summaries = prepare_parts(work, config, sources, steps, train_shards, pool)
        if sum(summary.kept for summary in summaries) > MANY_STORIES:
            pool.release()  # Deduplication needs the memory; starting new workers costs half a second.
        end_stage("read, clean, hash")
        index = load_index(work, summaries, validation)
        log.info(f"searching {len(index.keys):,} stories for duplicates")
        sketches = load_sketches(work, summaries, validation) if config.finds_near_duplicates else None
        verdicts = find_duplicates(
            index.keys, index.lengths, index.is_from_file, index.read_order, sketches, config.near_duplicates
        )
        plan = plan_shards(work, config, summaries, index, verdicts, train_shards)
        check_splits(plan, summaries)
        end_stage("find copies, lay out")
        write_shards(plan, work, pool)
        end_stage("write")
    summary = CorpusSummary(
        train_stories=plan.train_rows,
        val_stories=plan.val_rows,
        dropped=plan.dropped,
        fixes=sum_fixes(summaries),
        bytes=plan.text_bytes,
        sources=plan.sources,
        stages=stages,
        seconds=time.monotonic() - started,
    )
    publish(summary, config, [*sources, *validation_sources], vocabulary_table, recipe, work, out)
    return summary


def open_work_folder(out: Path, config: CorpusConfig, sources: Sequence[Source]) -> Path:
    """Return the folder of finished work next to `out`; empty it if the recipe, the input or the code changed."""
    inputs = [source.path for source in sources] + [config.vocabulary or "", *config.keep_out]
    states = []
    for path in map(Path, filter(None, inputs)):
        with translate_os_errors(path):
            states.append([str(path), path.stat().st_size, path.stat().st_mtime_ns])
    identity = [WORK_VERSION, git_commit(), pa.__version__, config.output_settings(), states]
    fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()
    work = out.with_name(f".{out.name}.work")
    fingerprint_file = work / "fingerprint"
    with translate_os_errors(work):
        if fingerprint_file.exists() and fingerprint_file.read_text() == fingerprint:
            log.info(f"resuming the build in {work}")
            return work
        if work.exists():
            shutil.rmtree(work)
        work.mkdir(parents=True)
        fingerprint_file.write_text(fingerprint)
    return work


def read_validation(config: CorpusConfig, sources: Sequence[Source]) -> list[str]:
    """Read the validation stories, white space at both ends removed. Raises FileProblem if there are none."""
    stories = [
        document.text.strip()
        for source in sources
        for piece in split_source(source, config.mark)
        for document in read_piece(piece, config.mark, config.seed)
        if document.reason is None and document.text.strip()
    ]
    if sources and not stories:
        raise FileProblem(f"{config.validation} has no stories; separate stories with {config.mark}")
    return stories


def count_train_shards(config: CorpusConfig, sources: Sequence[Source]) -> int:
    """Estimate the number of shards from the size of the sources; compressed text counts four times."""
    size = sum(source.size * (4 if source.path.endswith("gz") else 1) for source in sources)
    return max(1, -(-size // config.shard_bytes))


def prepare_steps(
    config: CorpusConfig, sources: Sequence[Source], validation: Sequence[str], work: Path
) -> tuple[dict[str, list[Step]], dict[str, Any] | None]:
    """List the steps for each kind of source; also return the vocabulary filter's table for the report."""
    story_steps: list[Step] = [
        CleanStories(config.minimum_words) if config.clean else strip_stories,
        *prepare_leak_steps(config, validation, work),
    ]
    if not any(source.kind == "wiki" for source in sources):
        return {"stories": story_steps}, None
    vocabulary_filter, table = prepare_filter(config, sources, work / "vocabulary.json")
    return {"stories": story_steps, "wiki": [vocabulary_filter, *story_steps]}, table


def prepare_leak_steps(config: CorpusConfig, validation: Sequence[str], work: Path) -> list[Step]:
    """Index the validation stories and the texts of `keep_out`; return no step if there are none."""
    texts = list(validation)
    names = [f"validation story {number}" for number in range(len(texts))]
    for path in map(Path, config.keep_out):
        held_out = read_stories(path) if path.suffix == ".txt" else read_prompts(path)
        names += [f"{path.name} {number}" for number in range(len(held_out))]
        texts += held_out
    if not texts:
        return []
    path = work / "leaks.npz"
    if not path.exists():
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            build_leak_index(texts, names, config.leak_words).save(file)
    return [DropLeaks(path)]


def count_processes(config: CorpusConfig, sources: Sequence[Source]) -> int:
    """Return the configured number; else all cores, or one for small input."""
    if config.processes or sum(source.size for source in sources) <= ONE_PROCESS_BYTES:
        return config.processes or 1
    return usable_cores()


def prepare_parts(
    work: Path,
    config: CorpusConfig,
    sources: Sequence[Source],
    steps: dict[str, list[Step]],
    train_shards: int,
    pool: WorkerPool,
) -> list[PartSummary]:
    """Run every piece through the steps for its kind of source, in any order; return the summaries in order."""
    pieces = (
        piece
        for source in sources
        for piece in split_source(source, config.mark, config.parts, config.stories)
    )
    jobs: Iterator[Any] = (
        (number, prepare_part, (work, number, piece, steps[piece.source.kind], config, train_shards))
        for number, piece in enumerate(pieces)
    )
    is_compressed = any(source.path.endswith("gz") for source in sources)
    total = None if is_compressed else sum(source.size for source in sources)
    done = 0
    summaries: dict[int, PartSummary] = {}
    for number, summary in pool.run(jobs):
        summaries[number] = summary
        done += summary.read_bytes
        megabytes = {"done": done / 1e6, "total": total and max(total, done) / 1e6, "unit": "MB"}
        log.info("reading and cleaning", extra=megabytes)
    if not any(summary.read for summary in summaries.values()):
        raise FileProblem(f"{', '.join(config.sources)} has no stories; give a file with text in it")
    return [summaries[number] for number in sorted(summaries)]


def check_splits(plan: ShardPlan, summaries: Sequence[PartSummary]) -> None:
    """Raise FileProblem if a split is empty."""
    if plan.train_rows and plan.val_rows:
        return
    frequent = sorted(plan.dropped.items(), key=lambda drop: -drop[1])[:3]
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in frequent)
    raise FileProblem(
        f"of {sum(summary.read for summary in summaries):,} stories read, {plan.train_rows:,} are left for train and "
        f"{plan.val_rows:,} for val, but each needs one{f' (dropped: {reasons})' if reasons else ''}; "
        "give more text, a validation file, or a larger corpus.validation_share"
    )


def publish(
    summary: CorpusSummary,
    config: CorpusConfig,
    sources: Sequence[Source],
    vocabulary_table: dict[str, Any] | None,
    recipe: dict[str, Any] | None,
    work: Path,
    out: Path,
) -> None:
    """Move the shards to `out`, write meta.json and remove the work folder."""
    with atomic_folder(out) as folder:
        for name in ("text", "dropped"):
            (work / name).rename(folder / name)
        meta = provenance_record(
            recipe=recipe,
            inputs={source.path: sha256_file(Path(source.path)) for source in sources if source.path},
            counts={name: getattr(summary, name) for name in ("train_stories", "val_stories", "bytes")},
            seconds=summary.seconds,
        )
        report = {
            "kind": "corpus",
            "format": FORMAT,
            "sources": summary.sources,
            "dropped": summary.dropped,
            "mended": summary.fixes,
            "stages": summary.stages,
            "guard": vocabulary_table,
            "config": config.output_settings(),
        }
        write_json(folder / "meta.json", {**meta, **report})
    shutil.rmtree(work, ignore_errors=True)
