"""Encode a corpus: Parquet text in, a token folder out.

In: a corpus folder and a tokenizer folder. Out: train.bin, val.bin, their story offsets, meta.json.
Beware: every story is followed by the end-of-story token. The bytes written do not depend on the number of
threads, nor on whether a run was stopped and taken up again.
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
from numpy.typing import NDArray

from smalltale.corpus.build import read_batches
from smalltale.errors import FileProblem, SmalltaleError
from smalltale.files import (
    END_OF_STORY,
    explained,
    new_folder,
    provenance,
    read_json,
    refuse_foreign_folder,
    sha256_of,
    write_json,
)
from smalltale.machine import usable_cores
from smalltale.tokens.tokenizer import Tokenizer
from smalltale.tokens.words import EndMarkInStory, WordEncoder

log = logging.getLogger(__name__)

PIECE_BYTES = 4_000_000
"""About so much text goes through a thread at once: it bounds memory."""
CHECKED_EVERY = 500
"""Each so-many-th story is decoded again, and encoded once more by the tokenizer itself."""
KEPT_SECONDS = 2.0
"""How often what is done is written down, so that a stopped run can go on."""
SPLITS: tuple[Literal["train", "val"], ...] = ("train", "val")


@dataclass(frozen=True, kw_only=True)
class TokensSummary:
    """What an encoding wrote."""

    stories: int
    tokens: int
    """End tokens included."""
    bytes: int
    """UTF-8 bytes of the stories."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Part:
    """A run of stories of a split, encoded."""

    tokens: NDArray[Any]
    ends: NDArray[np.int64]
    """Where each story ends in `tokens`."""
    bytes: int


@dataclass
class SplitState:
    """How far a split has come; the files are cut back to it when a run goes on."""

    stories: int = 0
    tokens: int = 0
    bytes: int = 0


def encode_corpus(
    corpus: Path,
    tokenizer: Path,
    out: Path,
    *,
    threads: int | None = None,
    recipe: dict[str, Any] | None = None,
) -> TokensSummary:
    """Write the token folder `out`, on all cores or on `threads`; a stopped run goes on where it was.

    Raises SmalltaleError where the tokenizer loses text, or a story has the end-of-story mark inside.
    """
    began = time.monotonic()
    refuse_foreign_folder(out)
    engine = Tokenizer.load(tokenizer)
    encoder = WordEncoder(engine)
    inputs = {"corpus": sha256_of(corpus / "meta.json"), "tokenizer": engine.hash}
    work, states = open_work(out, inputs)
    hashes = {}
    with ThreadPoolExecutor(threads or usable_cores()) as pool:
        for split in SPLITS:
            encode_split(corpus, split, encoder, pool, work, states)
            hashes[split] = sha256_of(work / f"{split}.bin")
    counts = {f"{split}_{name}": each for split in SPLITS for name, each in vars(states[split]).items()}
    record = provenance(recipe=recipe, inputs=inputs, counts=counts, seconds=time.monotonic() - began)
    own = {
        "kind": "tokens",
        "format": 1,
        "dtype": encoder.dtype.name,
        "vocabulary": engine.vocabulary_size,
        "end_id": engine.end_id,
        "pad_id": engine.pad_id,
        "tokenizer_hash": engine.hash,
        "hashes": hashes,
        "sources": read_json(corpus / "meta.json").get("inputs", {}),
    }
    with new_folder(out) as folder:
        for path in sorted(work.glob("*.bin")):
            path.replace(folder / path.name)
        write_json(folder / "meta.json", {**record, **own})
    shutil.rmtree(work)
    return TokensSummary(
        stories=sum(each.stories for each in states.values()),
        tokens=sum(each.tokens for each in states.values()),
        bytes=sum(each.bytes for each in states.values()),
        seconds=time.monotonic() - began,
    )


def open_work(out: Path, inputs: dict[str, str]) -> tuple[Path, dict[str, SplitState]]:
    """The folder of unfinished files beside `out`, and how far they are; one of other inputs is emptied."""
    work = out.with_name(f".{out.name}.encoding")
    journal = work / "journal.json"
    with explained(work):
        if journal.exists():
            told = read_json(journal)
            if told["inputs"] == inputs and all(whole(work, split, told[split]) for split in SPLITS):
                states = {str(split): SplitState(**told[split]) for split in SPLITS}
                log.info("going on after %d stories", sum(each.stories for each in states.values()))
                return work, states
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
    states = {str(split): SplitState() for split in SPLITS}
    keep(work, inputs, states)
    return work, states


def whole(work: Path, split: str, told: dict[str, int]) -> bool:
    """Whether the files of a split hold at least what the journal says."""
    path = work / f"{split}_offsets.bin"
    if not told["stories"]:
        return True
    if not path.exists() or path.stat().st_size < (told["stories"] + 1) * 8:
        return False
    tokens = work / f"{split}.bin"
    return tokens.exists() and tokens.stat().st_size >= told["tokens"] * 2


def keep(work: Path, inputs: dict[str, str], states: dict[str, SplitState]) -> None:
    """Write down how far the files are."""
    write_json(work / "journal.json", {"inputs": inputs, **{split: vars(states[split]) for split in SPLITS}})


def encode_split(
    corpus: Path,
    split: Literal["train", "val"],
    encoder: WordEncoder,
    pool: ThreadPoolExecutor,
    work: Path,
    states: dict[str, SplitState],
) -> None:
    """Write the rest of one split."""
    state = states[split]
    width = encoder.dtype.itemsize
    journal = read_json(work / "journal.json")["inputs"]
    saved = time.monotonic()
    with contextlib.ExitStack() as opened:
        opened.enter_context(explained(work))
        tokens = opened.enter_context((work / f"{split}.bin").open("ab"))
        offsets = opened.enter_context((work / f"{split}_offsets.bin").open("ab"))
        tokens.truncate(state.tokens * width)
        offsets.truncate((state.stories + 1) * 8)
        if not state.stories:
            offsets.truncate(0)
            offsets.write(np.zeros(1, dtype=np.uint64).tobytes())
        for part in in_order(pool, encoder, pieces(corpus, split, skip=state.stories), corpus, split):
            tokens.write(part.tokens.data)
            offsets.write((part.ends + state.tokens).astype(np.uint64).data)
            state.stories += len(part.ends)
            state.tokens += len(part.tokens)
            state.bytes += part.bytes
            log.info(
                f"encoding {split}",
                extra={"done": state.bytes // 1_000_000, "total": None, "unit": "MB"},
            )
            if time.monotonic() - saved > KEPT_SECONDS:
                tokens.flush()
                offsets.flush()
                keep(work, journal, states)
                saved = time.monotonic()
    keep(work, journal, states)


def in_order(
    pool: ThreadPoolExecutor,
    encoder: WordEncoder,
    given: Iterator[tuple[int, pa.StringArray]],
    corpus: Path,
    split: str,
) -> Iterator[Part]:
    """The parts of `given`, encoded side by side, in their order; a few at once."""
    waiting: deque[Future[Part]] = deque()
    try:
        for first, stories in given:
            waiting.append(pool.submit(encode_part, encoder, stories, first, f"{corpus} ({split})"))
            if len(waiting) > pool._max_workers + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for each in waiting:
            each.cancel()


def pieces(
    corpus: Path, split: Literal["train", "val"], *, skip: int
) -> Iterator[tuple[int, pa.StringArray]]:
    """The stories of a split from number `skip` on, about PIECE_BYTES at once, with the number of the first."""
    first = 0
    for batch in read_batches(corpus, split, ["text"]):
        texts = batch.column(0)
        if not pa.types.is_string(texts.type):
            texts = texts.cast(pa.string())
        if texts.null_count:
            raise FileProblem(f"{corpus} ({split}) has a story without text; build the corpus anew")
        after = first + len(texts)
        if after > skip:
            start = max(0, skip - first)
            texts = texts.slice(start)
            reached = np.cumsum(pc.binary_length(texts).to_numpy(), dtype=np.int64) // PIECE_BYTES
            bounds = [0, *(np.flatnonzero(np.diff(reached)) + 1).tolist(), len(texts)]
            for begin, end in pairwise(bounds):
                yield first + start + begin, texts.slice(begin, end - begin)
        first = after


def encode_part(encoder: WordEncoder, stories: pa.StringArray, first: int, where: str) -> Part:
    """Encode stories and check a sample of them. Raises SmalltaleError where one does not come back."""
    try:
        encoded = encoder.encode(stories)
    except EndMarkInStory as error:
        number = first + pc.index(pc.match_substring(stories, END_OF_STORY), True).as_py()
        raise EndMarkInStory(
            f"story {number} of {where} has {END_OF_STORY} inside; split the text at its marks: "
            "build the corpus from a text file with `smalltale corpus build`"
        ) from error
    tokenizer = encoder.tokenizer
    for number in range(-first % CHECKED_EVERY, len(stories), CHECKED_EVERY):
        text = stories[number].as_py()
        start = int(encoded.ends[number - 1]) if number else 0
        ids = encoded.tokens[start : int(encoded.ends[number]) - 1].tolist()
        if tokenizer.decode(ids) != text:
            raise SmalltaleError(
                f"the tokenizer does not give story {first + number} of {where} back ({text[:40]!r}…); "
                "use a lossless one, for example from `smalltale tokens train`"
            )
        assert ids == tokenizer.encode(text), "words and whole texts must have the same ids"
    return Part(
        tokens=encoded.tokens,
        ends=encoded.ends,
        bytes=int(pc.sum(pc.binary_length(stories)).as_py() or 0),
    )
