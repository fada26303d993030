"""MosaicML Composer: exports MDS shards and a script; imports the model folder.

Composer 0.32 is its last release and pins torch < 2.7.1, which has no CPU build in the package index; it runs with torch 2.13
when torchvision is stubbed (templates/shared/stand_in.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalltale.files import atomic_file, write_json
from smalltale.frameworks.framework import ExportRequest, Framework
from smalltale.frameworks.huggingface import make_llama_reader, write_llama_export

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


def export(request: ExportRequest) -> None:
    """Write shards of both splits, and the scripts."""
    write_llama_export(FRAMEWORK, request, ("train.py", "stand_in.py", "run.toml"))
    write_shards(request)


def write_shards(request: ExportRequest) -> None:
    """Write mds/train and mds/val, which replace the training stream."""
    (request.out / "train.bin").unlink()
    for split, stream in (("train", request.tokens.train), ("val", request.tokens.val)):
        write_mds(request.out / "mds" / split, stream, request.plan.context)


def write_mds(folder: Path, stream: NDArray[Any], context: int) -> None:
    """Write MDS shards for Streaming and LLM Foundry: one column `tokens`, each sample a row as int64 bytes.

    A shard has the uint32 number of samples, uint32 offsets (samples + 1) from the start of the file, the layout as JSON, and
    the samples, each preceded by the uint32 length of its column.
    """
    rows = len(stream) // context
    samples_per_shard = max(1, SHARD_BYTES // (8 * context + 8) - 1)
    layout = json.dumps(LAYOUT, sort_keys=True).encode()
    shards = []
    for number, start in enumerate(range(0, rows, samples_per_shard)):
        count = min(samples_per_shard, rows - start)
        ids = np.asarray(stream[start * context : (start + count) * context], dtype="<i8")
        rows_of_bytes = ids.reshape(count, context).view(np.uint8)
        lengths = np.full((count, 1), 8 * context, dtype="<u4").view(np.uint8)
        samples = np.concatenate((lengths, rows_of_bytes), axis=1)
        header_bytes = 4 + 4 * (count + 1) + len(layout)
        offsets = header_bytes + np.arange(count + 1, dtype="<u4") * samples.shape[1]
        name = f"shard.{number:05d}.mds"
        with atomic_file(folder / name) as temporary, temporary.open("wb") as out:
            out.write(np.uint32(count).tobytes() + offsets.astype("<u4").tobytes() + layout)
            samples.tofile(out)
        size = header_bytes + samples.size
        raw = {"basename": name, "bytes": size, "hashes": {}}
        shards.append({**LAYOUT, "raw_data": raw, "samples": count, "zip_data": None})
    write_json(folder / "index.json", {"version": 2, "shards": shards})


FRAMEWORK = Framework(
    name="composer",
    title="MosaicML Composer",
    export=export,
    read=make_llama_reader("composer", ("state", "model")),
    train=("python train.py",),
    checkpoint="model",
    package="mosaicml",
)
