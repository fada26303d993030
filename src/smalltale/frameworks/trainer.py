"""Hugging Face Trainer: exports packed rows as Parquet, TrainingArguments as YAML, a script; imports the model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from smalltale.files import atomic_file
from smalltale.frameworks.framework import ExportRequest, Framework
from smalltale.frameworks.huggingface import make_llama_reader, write_llama_export

ROWS_PER_GROUP = 1024


def export(request: ExportRequest) -> None:
    """Write packed rows as Parquet for the Trainer, and the held-out stream for the reference logits."""
    for split, stream in (("train", request.tokens.train), ("val", request.tokens.val)):
        write_rows(request.out / f"{split}.parquet", stream, request.plan.context)
    write_llama_export(FRAMEWORK, request, ("train.py", "training.yaml"))
    (request.out / "train.bin").unlink()


def write_rows(path: Path, stream: NDArray[Any], context: int) -> None:
    """Write one column `input_ids` with rows of `context` ids; an incomplete last row is dropped."""
    rows = len(stream) // context
    schema = pa.schema([("input_ids", pa.list_(pa.int32()))])
    with atomic_file(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for start in range(0, rows, ROWS_PER_GROUP):
            count = min(ROWS_PER_GROUP, rows - start)
            ids = np.asarray(stream[start * context : (start + count) * context], dtype=np.int32)
            ends = pa.array(np.arange(0, count * context + 1, context, dtype=np.int32))
            packed_rows = pa.ListArray.from_arrays(ends, pa.array(ids))
            writer.write_table(pa.table({"input_ids": packed_rows}, schema=schema))


FRAMEWORK = Framework(
    name="trainer",
    title="Hugging Face Trainer",
    export=export,
    read=make_llama_reader("trainer"),
    train=("python train.py",),
    checkpoint="model",
    package="transformers",
    quick_to_prove=True,
)
