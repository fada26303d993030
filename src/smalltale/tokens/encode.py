"""Encode a corpus: Parquet text in, a token folder out.

In: a corpus folder and a tokenizer folder. Out: train.bin, val.bin, their story offsets, meta.json.
Beware: every story is followed by the end-of-story token.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from smalltale.corpus.build import read_corpus
from smalltale.errors import SmalltaleError
from smalltale.files import new_folder, provenance, sha256_of, write_json
from smalltale.tokens.tokenizer import Tokenizer

log = logging.getLogger(__name__)

BATCH_STORIES = 2_000


@dataclass(frozen=True, kw_only=True)
class TokensSummary:
    """What an encoding wrote."""

    stories: int
    tokens: int
    bytes: int
    """UTF-8 bytes of the stories."""
    seconds: float


def encode_corpus(
    corpus: Path, tokenizer: Path, out: Path, *, recipe: dict[str, Any] | None = None
) -> TokensSummary:
    """Write the token folder `out`. Raises SmalltaleError where the tokenizer loses text."""
    began = time.monotonic()
    engine = Tokenizer.load(tokenizer)
    dtype = "uint16" if engine.vocabulary <= 2**16 else "uint32"
    stories, size, counts = 0, 0, {}
    with new_folder(out) as folder:
        for split in ("train", "val"):
            tokens, split_stories, split_bytes = encode_split(corpus, split, engine, folder, dtype)
            counts |= {
                f"{split}_tokens": tokens,
                f"{split}_stories": split_stories,
                f"{split}_bytes": split_bytes,
            }
            stories += split_stories
            size += split_bytes
        hashes = {name: sha256_of(folder / f"{name}.bin") for name in ("train", "val")}
        record = provenance(
            recipe=recipe,
            inputs={"corpus": sha256_of(corpus / "meta.json"), "tokenizer": engine.hash},
            counts=counts,
            seconds=time.monotonic() - began,
        )
        own = {
            "kind": "tokens",
            "format": 1,
            "dtype": dtype,
            "vocabulary": engine.vocabulary,
            "end_id": engine.end_id,
            "pad_id": engine.pad_id,
            "tokenizer_hash": engine.hash,
            "hashes": hashes,
        }
        write_json(folder / "meta.json", {**record, **own})
    tokens = counts["train_tokens"] + counts["val_tokens"]
    return TokensSummary(stories=stories, tokens=tokens, bytes=size, seconds=time.monotonic() - began)


def encode_split(
    corpus: Path, split: Literal["train", "val"], engine: Tokenizer, folder: Path, dtype: str
) -> tuple[int, int, int]:
    """Write one split. Returns tokens, stories, bytes."""
    offsets, tokens, size = [0], 0, 0
    with (folder / f"{split}.bin").open("wb") as out:
        for texts in batched((each.text for each in read_corpus(corpus, split)), BATCH_STORIES):
            encoded = engine.encode_batch(texts)
            if engine.decode(encoded[0]) != texts[0]:
                raise SmalltaleError(
                    f"the tokenizer does not give a story back ({texts[0][:40]!r}…); use a lossless one, "
                    "for example from `smalltale tokens train`"
                )
            for ids in encoded:
                out.write(np.array([*ids, engine.end_id], dtype=dtype).tobytes())
                tokens += len(ids) + 1
                offsets.append(tokens)
            size += sum(len(text.encode()) for text in texts)
            log.info(f"encoding {split}", extra={"done": len(offsets) - 1, "total": None, "unit": "stories"})
    np.array(offsets, dtype=np.uint64).tofile(folder / f"{split}_offsets.bin")
    return tokens, len(offsets) - 1, size


def batched(texts: Iterator[str], size: int) -> Iterator[list[str]]:
    """Lists of at most `size`."""
    while batch := list(itertools.islice(texts, size)):
        yield batch
