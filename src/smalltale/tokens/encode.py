"""Encode a corpus folder as a token folder, in several threads and resumable.

Input: a corpus folder and a tokenizer folder. Output: train.bin, val.bin, their story offsets, meta.json.
Every story is followed by the end-of-story token. The bytes written do not depend on the number of threads or on
interruptions.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from smalltale.corpus.corpus_folder import read_batches
from smalltale.errors import FileProblem, SmalltaleError
from smalltale.files import (
    END_OF_STORY,
    atomic_folder,
    provenance_record,
    read_json,
    refuse_foreign_folder,
    sha256_file,
    translate_os_errors,
    write_json,
)
from smalltale.machine import usable_cores
from smalltale.tokens.tokenizer import Tokenizer
from smalltale.tokens.word_encoder import EncodedStories, EndMarkInStory, WordEncoder

log = logging.getLogger(__name__)

BATCH_BYTES = 4_000_000
"""Approximate size of the text that a thread encodes at a time; bounds the memory."""
CHECK_INTERVAL = 500
"""One story in this many is decoded again, and also encoded by the tokenizer alone."""
SAVE_SECONDS = 2.0
"""How often the progress is saved, from which a stopped run resumes."""
Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")


@dataclass(frozen=True, kw_only=True)
class TokensSummary:
    """What an encoding wrote."""

    stories: int
    tokens: int
    """End tokens included."""
    bytes: int
    """UTF-8 bytes of the stories."""
    seconds: float


@dataclass
class SplitProgress:
    """How much of a split is written; a resumed run truncates the files to this."""

    stories: int = 0
    tokens: int = 0
    bytes: int = 0


def encode_corpus(
    corpus: Path,
    tokenizer_folder: Path,
    out: Path,
    *,
    threads: int | None = None,
    recipe: dict[str, Any] | None = None,
) -> TokensSummary:
    """Write the token folder `out`, on all cores or with `threads`; a stopped run resumes.

    Raises SmalltaleError if the tokenizer loses text or a story has the end-of-story mark inside.
    """
    started = time.monotonic()
    refuse_foreign_folder(out)
    tokenizer = Tokenizer.load(tokenizer_folder)
    encoder = WordEncoder(tokenizer)
    inputs = {"corpus": sha256_file(corpus / "meta.json"), "tokenizer": tokenizer.hash}
    work, progress = open_work_folder(out, inputs)
    hashes = {}
    with ThreadPoolExecutor(threads or usable_cores()) as pool:
        for split in SPLITS:
            encode_split(corpus, split, encoder, pool, work, progress)
            hashes[split] = sha256_file(work / f"{split}.bin")
    counts = {f"{split}_{name}": count for split in SPLITS for name, count in vars(progress[split]).items()}
    seconds = time.monotonic() - started
    record = provenance_record(recipe=recipe, inputs=inputs, counts=counts, seconds=seconds)
    settings = {
        "kind": "tokens",
        "format": 1,
        "dtype": encoder.dtype.name,
        "vocabulary": tokenizer.vocabulary_size,
        "end_id": tokenizer.end_id,
        "pad_id": tokenizer.pad_id,
        "tokenizer_hash": tokenizer.hash,
        "hashes": hashes,
        "sources": read_json(corpus / "meta.json").get("inputs", {}),
    }
    with atomic_folder(out) as folder:
        for path in sorted(work.glob("*.bin")):
            path.replace(folder / path.name)
        write_json(folder / "meta.json", {**record, **settings})
    shutil.rmtree(work)
    return TokensSummary(
        stories=sum(split.stories for split in progress.values()),
        tokens=sum(split.tokens for split in progress.values()),
        bytes=sum(split.bytes for split in progress.values()),
        seconds=time.monotonic() - started,
    )


def open_work_folder(out: Path, inputs: dict[str, str]) -> tuple[Path, dict[str, SplitProgress]]:
    """Return the folder of unfinished files next to `out` and their progress; empty it if the inputs changed."""
    work = out.with_name(f".{out.name}.encoding")
    journal_file = work / "journal.json"
    with translate_os_errors(work):
        if journal_file.exists():
            journal = read_json(journal_file)
            is_same_run = journal["inputs"] == inputs
            if is_same_run and all(has_files(work, split, journal[split]) for split in SPLITS):
                progress = {str(split): SplitProgress(**journal[split]) for split in SPLITS}
                log.info("resuming after %d stories", sum(split.stories for split in progress.values()))
                return work, progress
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
    progress = {str(split): SplitProgress() for split in SPLITS}
    save_progress(work, inputs, progress)
    return work, progress


def has_files(work: Path, split: str, progress: dict[str, int]) -> bool:
    """Whether the files of a split are at least as long as the journal says."""
    path = work / f"{split}_offsets.bin"
    if not progress["stories"]:
        return True
    if not path.exists() or path.stat().st_size < (progress["stories"] + 1) * 8:
        return False
    tokens = work / f"{split}.bin"
    return tokens.exists() and tokens.stat().st_size >= progress["tokens"] * 2


def save_progress(work: Path, inputs: dict[str, str], progress: dict[str, SplitProgress]) -> None:
    journal: dict[str, Any] = {"inputs": inputs, **{split: vars(progress[split]) for split in SPLITS}}
    write_json(work / "journal.json", journal)


def encode_split(
    corpus: Path,
    split: Split,
    encoder: WordEncoder,
    pool: ThreadPoolExecutor,
    work: Path,
    progress: dict[str, SplitProgress],
) -> None:
    """Encode the stories of a split that are not written yet."""
    written = progress[split]
    inputs = read_json(work / "journal.json")["inputs"]
    saved_at = time.monotonic()
    with contextlib.ExitStack() as files:
        files.enter_context(translate_os_errors(work))
        tokens = files.enter_context((work / f"{split}.bin").open("ab"))
        offsets = files.enter_context((work / f"{split}_offsets.bin").open("ab"))
        tokens.truncate(written.tokens * encoder.dtype.itemsize)
        offsets.truncate((written.stories + 1) * 8)
        if not written.stories:
            offsets.truncate(0)
            offsets.write(np.zeros(1, dtype=np.uint64).tobytes())
        texts = read_texts(corpus, split, skip=written.stories)
        for batch, batch_bytes in encode_in_order(pool, encoder, texts, f"{corpus} ({split})"):
            tokens.write(batch.tokens.data)
            offsets.write((batch.ends + written.tokens).astype(np.uint64).data)
            written.stories += len(batch.ends)
            written.tokens += len(batch.tokens)
            written.bytes += batch_bytes
            megabytes = {"done": written.bytes // 1_000_000, "total": None, "unit": "MB"}
            log.info(f"encoding {split}", extra=megabytes)
            if time.monotonic() - saved_at > SAVE_SECONDS:
                tokens.flush()
                offsets.flush()
                save_progress(work, inputs, progress)
                saved_at = time.monotonic()
    save_progress(work, inputs, progress)


def encode_in_order(
    pool: ThreadPoolExecutor,
    encoder: WordEncoder,
    texts: Iterator[tuple[int, pa.StringArray]],
    corpus_name: str,
) -> Iterator[tuple[EncodedStories, int]]:
    """Encode batches of stories in parallel and yield them with their bytes in order; only a few are pending."""
    pending: deque[Future[tuple[EncodedStories, int]]] = deque()
    try:
        for first, stories in texts:
            pending.append(pool.submit(encode_batch, encoder, stories, first, corpus_name))
            if len(pending) > pool._max_workers + 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def read_texts(corpus: Path, split: Split, *, skip: int) -> Iterator[tuple[int, pa.StringArray]]:
    """Yield the stories of a split from number `skip` on, about BATCH_BYTES at a time, and the number of the first."""
    first = 0
    for batch in read_batches(corpus, split, ["text"]):
        texts = batch.column(0)
        if not pa.types.is_string(texts.type):
            texts = texts.cast(pa.string())
        if texts.null_count:
            raise FileProblem(f"{corpus} ({split}) has a story without text; build the corpus again")
        after = first + len(texts)
        if after > skip:
            start = max(0, skip - first)
            texts = texts.slice(start)
            batch_numbers = np.cumsum(pc.binary_length(texts).to_numpy(), dtype=np.int64) // BATCH_BYTES
            bounds = [0, *(np.flatnonzero(np.diff(batch_numbers)) + 1).tolist(), len(texts)]
            for begin, end in pairwise(bounds):
                yield first + start + begin, texts.slice(begin, end - begin)
        first = after


def encode_batch(
    encoder: WordEncoder, stories: pa.StringArray, first: int, corpus_name: str
) -> tuple[EncodedStories, int]:
    """Encode stories, check a sample and count their bytes. Raises SmalltaleError if one does not decode to its text."""
    try:
        encoded = encoder.encode(stories)
    except EndMarkInStory as error:
        number = first + pc.index(pc.match_substring(stories, END_OF_STORY), True).as_py()
        raise EndMarkInStory(
            f"story {number} of {corpus_name} has {END_OF_STORY} inside; split the text at its marks: "
            "build the corpus from a text file with `smalltale corpus build`"
        ) from error
    tokenizer = encoder.tokenizer
    for number in range(-first % CHECK_INTERVAL, len(stories), CHECK_INTERVAL):
        text = stories[number].as_py()
        start = int(encoded.ends[number - 1]) if number else 0
        ids = encoded.tokens[start : int(encoded.ends[number]) - 1].tolist()
        if tokenizer.decode(ids) != text:
            raise SmalltaleError(
                f"the tokenizer does not decode story {first + number} of {corpus_name} to its text "
                f"({text[:40]!r}…); use a lossless one, for example from `smalltale tokens train`"
            )
        assert ids == tokenizer.encode(text), "words and full texts must have the same ids"
    return encoded, int(pc.sum(pc.binary_length(stories)).as_py() or 0)
