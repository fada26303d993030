"""Build a corpus folder: read the sources, clean, drop duplicates and leaks, mix, split, write.

In: a CorpusConfig. Out: text/train-*.parquet, text/val-*.parquet (columns text, source, id), dropped/*.parquet
(with reason and detail), meta.json.
Beware: a story goes to train or val by the hash of its own words, so adding data never moves one across; the
Parquet files are the same bytes for any number of processes, and a killed build goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from smalltale.corpus import assemble, prepare
from smalltale.corpus.dedupe import leaks_of
from smalltale.corpus.document import Document
from smalltale.corpus.mix import check_schedule
from smalltale.corpus.prepare import PartCounts, Preparation
from smalltale.corpus.sources import Piece, Source, find_sources, pieces, read_piece
from smalltale.corpus.vocabulary import DEFAULT_SHARE, Guard, dial_table, learn_words
from smalltale.corpus.workers import Workers
from smalltale.errors import FileProblem, RecipeError
from smalltale.files import (
    END_OF_STORY,
    explained,
    git_commit,
    new_file,
    new_folder,
    provenance,
    read_json,
    read_stories,
    refuse_foreign_folder,
    sha256_of,
    write_json,
)

log = logging.getLogger(__name__)
FORMAT = 1
WORK_VERSION = 3
"""Raised when a change of the code changes what a build writes, so that no older work is gone on with."""
ONE_PROCESS_BYTES = 20_000_000
"""Below this, starting workers costs more than it saves."""
DIAL_ARTICLES = 1_000
MANY_STORIES = 500_000
LEARN_BYTES = 64_000_000
"""From so much story text the children's vocabulary is learned."""


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """What goes into a corpus and what stays out."""

    sources: tuple[str, ...] = ("fable",)
    """Short names (fable, tinystories-v2, simplewiki, …), NAME=PATH, files, folders or globs."""
    stories: int = 20_000
    """How many stories `fable` tells."""
    seed: int = 1
    """Of fable's stories and of the order of the train split."""
    validation: str | None = None
    """A file or short name whose stories are the val split, as they stand; no story that leaks them stays in train."""
    validation_share: float = 0.01
    """Share of the stories that go to val, chosen by hash, where `validation` names no file; 0 < share < 1."""
    keep_out: tuple[str, ...] = ()
    """More text files and prompt files whose text must not stand in train."""
    mark: str = END_OF_STORY
    """What stands between the stories of a .txt file; a file without it is split where a paragraph opens a tale."""
    parts: tuple[str, ...] = ()
    """Which parts of tinystories-tar: GPT-3.5, GPT-4; empty for both."""
    clean: bool = True
    """Whether the cleaning rules run."""
    minimum_words: int = 30
    """A shorter story is dropped."""
    near_duplicates: float = 0.8
    """Stories that share this much of their 5-word shingles count as copies; 1 keeps all but exact copies."""
    leak_words: int = 30
    """A story that has a run of so many words in common with a held-out text is a leak."""
    vocabulary: str | None = None
    """A text file of stories that the children's vocabulary is learned from; without it, the build's own stories."""
    vocabulary_share: float = DEFAULT_SHARE
    """The guard's dial: the share of a wiki sentence's words that a small child must understand, 0 to 1."""
    weights: dict[str, float] = field(default_factory=dict)
    """How often a source is seen, by name: 2 doubles it, 0.5 halves it, 0 leaves it out."""
    temperature: float = 1.0
    """1 leaves the sources' sizes as they are; more evens them out, by repeating the smaller ones."""
    schedule: dict[str, tuple[float, float]] = field(default_factory=dict)
    """The part of the run that a source stands in, by name, for example {simplewiki = [0, 0.3], fable = [0.2, 1]}."""
    shard_bytes: int = 32_000_000
    """About how much text a Parquet shard holds."""
    processes: int | None = None
    """How many processes work; all cores without it, one for small input. The output is the same."""

    def __post_init__(self) -> None:
        def must(name: str, holds: bool, mend: str) -> None:
            if not holds:
                raise RecipeError(f"corpus.{name} is {getattr(self, name)!r}; {mend}")

        must("sources", bool(self.sources), "name at least one file or short name, for example fable")
        must("validation_share", 0 < self.validation_share < 1, "choose a share above 0 and below 1")
        must("stories", self.stories >= 1, "choose at least 1")
        must("near_duplicates", 0.5 <= self.near_duplicates <= 1, "choose a share from 0.5 to 1")
        must("leak_words", 8 <= self.leak_words <= 256, "choose from 8 to 256 words")
        must("minimum_words", self.minimum_words >= 1, "choose at least 1")
        must("vocabulary_share", 0 <= self.vocabulary_share <= 1, "choose a share from 0 to 1")
        must("temperature", self.temperature >= 1, "choose 1 or more")
        must("weights", all(weight >= 0 for weight in self.weights.values()), "choose weights of 0 or more")
        must("shard_bytes", self.shard_bytes >= 100_000, "choose at least 100000")
        must("processes", self.processes is None or self.processes >= 1, "choose at least 1")
        must("mark", bool(self.mark), "give the text that stands between stories")
        check_schedule(self.schedule)


@dataclass(frozen=True, kw_only=True)
class CorpusSummary:
    """What a build wrote."""

    train_stories: int
    val_stories: int
    dropped: dict[str, int]
    """Stories dropped, by reason."""
    mended: dict[str, int]
    """Stories mended, by rule."""
    bytes: int
    """UTF-8 bytes of all stories written, copies counted."""
    sources: dict[str, dict[str, Any]]
    """For each source, what was read, kept, mended and dropped."""
    stages: dict[str, float]
    """Seconds of each pass."""
    seconds: float


def build_corpus(config: CorpusConfig, out: Path, recipe: dict[str, Any] | None = None) -> CorpusSummary:
    """Write the corpus folder `out`. Raises FileProblem for a source that is missing, empty or broken.

    What is finished when the build stops lies in a hidden folder beside `out`; the same call goes on from there.
    """
    began = time.monotonic()
    refuse_foreign_folder(out)
    sources = find_sources(config.sources, config.stories)
    held_sources = find_sources([config.validation], config.stories) if config.validation else []
    held = held_texts(config, held_sources)
    work = open_work(out, config, [*sources, *held_sources])
    slots = max(
        1,
        -(-sum(each.size * (4 if each.path.endswith("gz") else 1) for each in sources) // config.shard_bytes),
    )
    how = Preparation(
        work=work,
        seed=config.seed,
        mark=config.mark,
        cleaning=config.clean,
        minimum_words=config.minimum_words,
        validation_share=0.0 if config.validation else config.validation_share,
        near=config.near_duplicates < 1,
        slots=slots,
    )
    write_leaks(config, held, work)
    if any(each.kind == "wiki" for each in sources):
        write_guard(config, sources, work)
    stages: dict[str, float] = {}
    pool = Workers(processes_for(config, sources))
    with pool as start:
        counts = prepare_all(config, sources, how, start)
        if sum(each.kept for each in counts) > MANY_STORIES:
            pool.release()  # judging copies needs the memory more than the half second that new workers cost
        stages["read, clean, hash"] = round(time.monotonic() - began, 3)
        plan = assemble.plan(
            work,
            counts,
            held,
            how,
            config.near_duplicates,
            config.weights,
            config.temperature,
            config.schedule,
        )
        if not plan.train_rows or not plan.val_rows:
            raise FileProblem(nothing_left(plan, counts))
        stages["find copies, lay out"] = round(time.monotonic() - began - sum(stages.values()), 3)
        assemble.write_shards(plan, how, start)
        stages["write"] = round(time.monotonic() - began - sum(stages.values()), 3)
    with new_folder(out) as folder:
        for name in ("text", "dropped"):
            (work / name).rename(folder / name)
        inputs = {each.path: sha256_of(Path(each.path)) for each in (*sources, *held_sources) if each.path}
        summary = CorpusSummary(
            train_stories=plan.train_rows,
            val_stories=plan.val_rows,
            dropped=plan.dropped,
            mended=dict(sorted(sum((Counter(each.mends) for each in counts), Counter()).items())),
            bytes=plan.text_bytes,
            sources=plan.sources,
            stages=stages,
            seconds=time.monotonic() - began,
        )
        totals = {"train_stories": plan.train_rows, "val_stories": plan.val_rows, "bytes": plan.text_bytes}
        meta = provenance(recipe=recipe, inputs=inputs, counts=totals, seconds=summary.seconds)
        table = work / "guard_table.json"
        report = {
            "sources": summary.sources,
            "dropped": summary.dropped,
            "mended": summary.mended,
            "stages": stages,
            "guard": read_json(table) if table.exists() else None,
            "config": plain(config),
        }
        write_json(folder / "meta.json", {**meta, "kind": "corpus", "format": FORMAT, **report})
    shutil.rmtree(work, ignore_errors=True)
    return summary


def read_corpus(folder: Path, split: Literal["train", "val"]) -> Iterator[Document]:
    """The documents of a split in their order. Raises FileProblem where `folder` is no corpus folder."""
    for batch in read_batches(folder, split, ["text", "source", "id"]):
        yield from map(Document, *(column.to_pylist() for column in batch.columns))


def read_batches(
    folder: Path, split: Literal["train", "val"], columns: Sequence[str], rows: int = 10_000
) -> Iterator[pa.RecordBatch]:
    """Columns of a split in their order, at most `rows` documents at once, without making Python objects."""
    meta = read_json(folder / "meta.json")
    if not isinstance(meta, dict) or meta.get("kind") != "corpus":
        raise FileProblem(f"{folder} is not a corpus folder; build one with: smalltale corpus build")
    if meta.get("format") != FORMAT:
        raise FileProblem(
            f"{folder} has corpus format {meta.get('format')}, this smalltale reads {FORMAT}; build it anew"
        )
    shards = sorted((folder / "text").glob(f"{split}-*.parquet"))
    if not shards:
        raise FileProblem(
            f"{folder} has no text/{split}-*.parquet; build it anew with: smalltale corpus build"
        )
    for shard in shards:
        try:
            with explained(shard), pq.ParquetFile(shard, pre_buffer=False) as opened:
                yield from opened.iter_batches(batch_size=rows, columns=list(columns))
        except pa.ArrowInvalid as error:
            raise FileProblem(f"{shard} is not whole Parquet ({error}); build the corpus anew") from error


def plain(config: CorpusConfig) -> dict[str, Any]:
    """The config without what does not change the output."""
    return {each.name: getattr(config, each.name) for each in fields(config) if each.name != "processes"}


def open_work(out: Path, config: CorpusConfig, sources: list[Source]) -> Path:
    """The folder of finished parts beside `out`; one of another recipe or other input is emptied."""
    for cached in (prepare.leaks_in, prepare.leak_names, prepare.guard_in, prepare.batch_bounds):
        cached.cache_clear()
    watched = [each.path for each in sources if each.path] + [
        each for each in (config.vocabulary, *config.keep_out) if each
    ]
    states = []
    for path in watched:
        with explained(Path(path)):
            state = Path(path).stat()
        states.append([path, state.st_size, state.st_mtime_ns])
    text = json.dumps(
        [WORK_VERSION, git_commit(), pa.__version__, plain(config), states], sort_keys=True, default=str
    )
    mark = hashlib.sha256(text.encode()).hexdigest()
    work = out.with_name(f".{out.name}.work")
    with explained(work):
        if work.exists() and not ((work / "mark").exists() and (work / "mark").read_text() == mark):
            shutil.rmtree(work)
        elif work.exists():
            log.info(f"going on with the build in {work}")
        work.mkdir(parents=True, exist_ok=True)
        (work / "mark").write_text(mark)
    return work


def held_texts(config: CorpusConfig, sources: list[Source]) -> list[str]:
    """The stories of the validation file as they stand, white space at their ends removed. Raises FileProblem for none."""
    reads = (
        read
        for source in sources
        for piece in pieces(source, config.mark)
        for read in read_piece(piece, config.mark, config.seed)
    )
    held = [read.text.strip() for read in reads if read.reason is None and read.text.strip()]
    if sources and not held:
        raise FileProblem(f"{config.validation} holds no story; separate stories with {config.mark}")
    return held


def write_leaks(config: CorpusConfig, held: list[str], work: Path) -> None:
    """What no training story may hold."""
    names = [f"validation story {number}" for number in range(len(held))]
    texts = list(held)
    for place in config.keep_out:
        found = keep_out_texts(Path(place))
        names += [f"{Path(place).name} {number}" for number in range(len(found))]
        texts += found
    if texts and not (work / "leaks.npz").exists():
        write_json(work / "leaks.json", names)
        with new_file(work / "leaks.npz") as temporary, temporary.open("wb") as opened:
            leaks_of(texts, config.leak_words).save(opened)


def keep_out_texts(path: Path) -> list[str]:
    """The stories of a text file, or the prompts of a prompt file."""
    if path.suffix == ".txt":
        return read_stories(path)
    from smalltale.prompts import read_prompts

    return list(read_prompts(path))


def write_guard(config: CorpusConfig, sources: list[Source], work: Path) -> None:
    """The children's vocabulary, from `vocabulary` or from the first stories of the build."""
    if (work / "guard.json").exists():
        return

    def texts() -> Iterator[str]:
        taken = 0
        for source in sources:
            for piece in (
                pieces(source, config.mark, config.parts, config.stories) if source.kind == "stories" else ()
            ):
                for read in read_piece(piece, config.mark, config.seed):
                    taken += len(read.text)
                    yield read.text
                    if taken >= LEARN_BYTES:
                        return

    known = learn_words(read_stories(Path(config.vocabulary)) if config.vocabulary else texts())
    if not known:
        raise RecipeError(
            "simplewiki alone has no children's vocabulary to learn; add a source of stories or set corpus.vocabulary"
        )
    guard = Guard(known, config.vocabulary_share)
    first = next(source for source in sources if source.kind == "wiki")
    piece = next(pieces(first, config.mark), None)
    articles = [read.text for read in islice(read_piece(piece, config.mark), DIAL_ARTICLES)] if piece else []
    write_json(work / "guard_table.json", dial_table(guard, articles))
    with new_file(work / "guard.json") as temporary:
        guard.save(temporary)


def prepare_all(
    config: CorpusConfig, sources: list[Source], how: Preparation, start: assemble.Start
) -> list[PartCounts]:
    """Make every part, in any order; the counts come back in the order of the pieces."""

    def every_piece() -> Iterator[Piece]:
        for source in sources:
            yield from pieces(source, config.mark, config.parts, config.stories)

    counts: dict[int, PartCounts] = {}
    done = 0
    total = (
        sum(each.size for each in sources) if not any(each.path.endswith("gz") for each in sources) else None
    )
    jobs = ((number, prepare.prepare, (number, piece, how)) for number, piece in enumerate(every_piece()))
    for number, made in start(jobs):
        counts[number] = made
        done += made.read_bytes
        log.info(
            "reading and cleaning",
            extra={"done": done / 1e6, "total": total and max(total, done) / 1e6, "unit": "MB"},
        )
    if not any(each.read for each in counts.values()):
        raise FileProblem(f"{', '.join(config.sources)} holds no story; give a file with text in it")
    return [counts[number] for number in sorted(counts)]


def nothing_left(plan: assemble.Plan, counts: list[PartCounts]) -> str:
    read = sum(each.read for each in counts)
    why = ", ".join(
        f"{reason} {number:,}"
        for reason, number in sorted(plan.dropped.items(), key=lambda item: -item[1])[:3]
    )
    return (
        f"of {read:,} stories read, {plan.train_rows:,} are left for train and {plan.val_rows:,} for val, but each needs one"
        f"{f' (dropped: {why})' if why else ''}; give more text, a validation file, or a larger corpus.validation_share"
    )


def processes_for(config: CorpusConfig, sources: list[Source]) -> int:
    """As many as asked for; else all cores, or one where the input is small."""
    if config.processes or sum(each.size for each in sources) <= ONE_PROCESS_BYTES:
        return config.processes or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
