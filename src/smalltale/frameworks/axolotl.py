"""Axolotl: exports JSON lines, one story per line, and a YAML config; imports the model folder.

Axolotl encodes and packs the stories itself, with attention limited to each story. Every line begins with the end token, as in
the other exports; Axolotl adds the end token after a story. It pins about thirty packages exactly.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalltale.files import atomic_file
from smalltale.frameworks.framework import ExportRequest, Framework
from smalltale.frameworks.huggingface import make_llama_reader, write_llama_export
from smalltale.tokens.tokenizer import Tokenizer


def export(request: ExportRequest) -> None:
    """Write the lines of both splits, axolotl.yaml and its start script."""
    write_llama_export(FRAMEWORK, request, ("train.py", "axolotl.yaml", "recorder.py", "stand_in.py"))
    (request.out / "train.bin").unlink()
    tokenizer = Tokenizer.load(request.tokenizer)
    tokens = request.tokens
    write_lines(request.out / "train.jsonl", tokens.train, tokens.train_offsets, tokenizer)
    write_lines(request.out / "val.jsonl", tokens.val, tokens.val_offsets, tokenizer)


def write_lines(path: Path, stream: NDArray[Any], offsets: NDArray[np.uint64], tokenizer: Tokenizer) -> None:
    """Write one JSON object per line: {"text": end token + story}."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as out:
        for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            text = tokenizer.end_token + tokenizer.decode(stream[start : end - 1].tolist())
            out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


FRAMEWORK = Framework(
    name="axolotl",
    title="Axolotl",
    export=export,
    read=make_llama_reader("axolotl"),
    train=("python train.py",),
    checkpoint="model",
    package="axolotl",
)
