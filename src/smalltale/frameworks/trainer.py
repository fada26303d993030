"""Hugging Face Trainer: Parquet with packed rows, TrainingArguments as YAML, a script; a model folder comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from smalltale.files import new_file
from smalltale.frameworks.framework import Export, Framework
from smalltale.frameworks.huggingface import llama_reader, write_llama_export

ROWS_A_GROUP = 1024


def export(to: Export) -> None:
    """The rows twice: packed in Parquet for the Trainer, and the held-out stream for the reference logits."""
    for split, stream in (("train", to.tokens.train), ("val", to.tokens.val)):
        write_rows(to.out / f"{split}.parquet", stream, to.plan.context)
    write_llama_export(FRAMEWORK, to, ("train.py", "training.yaml"))
    (to.out / "train.bin").unlink()


def write_rows(path: Path, stream: NDArray[Any], context: int) -> None:
    """One column `input_ids`, rows of `context` ids; the rest that fills no row is left out."""
    rows = len(stream) // context
    schema = pa.schema([("input_ids", pa.list_(pa.int32()))])
    with new_file(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for start in range(0, rows, ROWS_A_GROUP):
            count = min(ROWS_A_GROUP, rows - start)
            ids = np.asarray(stream[start * context : (start + count) * context], dtype=np.int32)
            ends = pa.array(np.arange(0, count * context + 1, context, dtype=np.int32))
            writer.write_table(
                pa.table({"input_ids": pa.ListArray.from_arrays(ends, pa.array(ids))}, schema=schema)
            )


FRAMEWORK = Framework(
    name="trainer",
    title="Hugging Face Trainer",
    export=export,
    read=llama_reader("trainer"),
    train=("python train.py",),
    checkpoint="model",
    package="transformers",
    cheap=True,
)
