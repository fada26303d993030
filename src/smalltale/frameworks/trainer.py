"""Hugging Face Trainer: Parquet with packed rows, TrainingArguments as YAML, a script; a model folder comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from smalltale.files import new_file, write_json
from smalltale.frameworks.exporting import fill, write_streams
from smalltale.frameworks.framework import Export, Framework, Native
from smalltale.frameworks.llama import llama_config, native_llama
from smalltale.frameworks.reading import hugging_face_config, load_weights

ROWS_A_GROUP = 1024


def export(to: Export) -> None:
    """The rows twice: packed in Parquet for the Trainer, and the held-out stream for the reference logits."""
    write_streams(to, to.out)
    (to.out / "train.bin").unlink()
    for split, stream in (("train", to.tokens.train), ("val", to.tokens.val)):
        write_rows(to.out / f"{split}.parquet", stream, to.plan.context)
    write_json(to.out / "config.json", llama_config(to.plan, to.tokens))
    for name in ("stories.py", "train.py", "training.yaml"):
        fill(FRAMEWORK, name, to.out, to.plan)


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


def read(checkpoint: Path, trust: bool) -> Native:
    """A model folder, a checkpoint-N folder of the Trainer, or their model.safetensors."""
    return native_llama(load_weights(checkpoint, trust, "trainer"), hugging_face_config(checkpoint))


FRAMEWORK = Framework(
    name="trainer",
    title="Hugging Face Trainer",
    export=export,
    read=read,
    train=("python train.py",),
    checkpoint="model",
    package="transformers",
    cheap=True,
)
