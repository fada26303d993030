"""MosaicML Composer: MDS shards, written here, and a script; a model folder comes back.

Beware: Composer 0.32 is its last release and pins torch < 2.7.1, of which there is no build for processors in the package
index; it runs with torch 2.13, torchvision left out (templates/shared/stand_in.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalltale.files import new_file, write_json
from smalltale.frameworks.framework import Export, Framework
from smalltale.frameworks.huggingface import llama_reader, write_llama_export

SHARD_BYTES = 1 << 26
LAYOUT: dict[str, Any] = {
    "column_encodings": ["bytes"],
    "column_names": ["tokens"],
    "column_sizes": [None],
    "compression": None,
    "format": "mds",
    "hashes": [],
    "size_limit": SHARD_BYTES,
    "version": 2,
}


def export(to: Export) -> None:
    """Shards of both splits beside the scripts."""
    write_llama_export(FRAMEWORK, to, ("train.py", "stand_in.py", "run.toml"))
    write_shards(to)


def write_shards(to: Export) -> None:
    """mds/train and mds/val in place of the training stream, which is then not needed."""
    (to.out / "train.bin").unlink()
    for split, stream in (("train", to.tokens.train), ("val", to.tokens.val)):
        write_mds(to.out / "mds" / split, stream, to.plan.context)


def write_mds(folder: Path, stream: NDArray[Any], context: int) -> None:
    """One column `tokens`, each sample the int64 bytes of a row: what Streaming and LLM Foundry read.

    A shard: uint32 samples, uint32 offsets (samples + 1) from the file's start, its layout as JSON, then the samples, each
    after the uint32 length of its one column.
    """
    rows = len(stream) // context
    at_once = max(1, SHARD_BYTES // (8 * context + 8) - 1)
    layout = json.dumps(LAYOUT, sort_keys=True).encode()
    shards = []
    for number, start in enumerate(range(0, rows, at_once)):
        count = min(at_once, rows - start)
        ids = np.asarray(stream[start * context : (start + count) * context], dtype="<i8").reshape(
            count, context
        )
        lengths = np.full((count, 1), 8 * context, dtype="<u4").view(np.uint8)
        samples = np.concatenate((lengths, ids.view(np.uint8)), axis=1)
        first = 4 + 4 * (count + 1) + len(layout)
        offsets = first + np.arange(count + 1, dtype="<u4") * samples.shape[1]
        name = f"shard.{number:05d}.mds"
        with new_file(folder / name) as temporary, temporary.open("wb") as out:
            out.write(np.uint32(count).tobytes() + offsets.astype("<u4").tobytes() + layout)
            samples.tofile(out)
        size = first + samples.size
        raw = {"basename": name, "bytes": size, "hashes": {}}
        shards.append({**LAYOUT, "raw_data": raw, "samples": count, "zip_data": None})
    write_json(folder / "index.json", {"version": 2, "shards": shards})


FRAMEWORK = Framework(
    name="composer",
    title="MosaicML Composer",
    export=export,
    read=llama_reader("composer", ("state", "model")),
    train=("python train.py",),
    checkpoint="model",
    package="mosaicml",
)
