"""Axolotl: a JSON line a story and a YAML; a model folder comes back.

Beware: Axolotl encodes the stories itself and packs them, each seen alone. Every line begins with the end token, as every
story of the other exports stands behind one; the end token after a story Axolotl adds. It pins some thirty packages exactly.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalltale.files import new_file
from smalltale.frameworks.framework import Export, Framework
from smalltale.frameworks.huggingface import llama_reader, write_llama_export
from smalltale.tokens.tokenizer import Tokenizer


def export(to: Export) -> None:
    """Lines of both splits, axolotl.yaml and the few lines that start it."""
    write_llama_export(FRAMEWORK, to, ("train.py", "axolotl.yaml", "keeper.py", "stand_in.py"))
    (to.out / "train.bin").unlink()
    tokenizer = Tokenizer.load(to.tokenizer)
    tokens = to.tokens
    write_lines(to.out / "train.jsonl", tokens.train, tokens.train_offsets, tokenizer)
    write_lines(to.out / "val.jsonl", tokens.val, tokens.val_offsets, tokenizer)


def write_lines(path: Path, stream: NDArray[Any], offsets: NDArray[np.uint64], tokenizer: Tokenizer) -> None:
    """One object a line, {"text": the end token and a story}."""
    with new_file(path) as temporary, temporary.open("w", encoding="utf-8") as out:
        for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            text = tokenizer.end_token + tokenizer.decode(stream[start : end - 1].tolist())
            out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


FRAMEWORK = Framework(
    name="axolotl",
    title="Axolotl",
    export=export,
    read=llama_reader("axolotl"),
    train=("python train.py",),
    checkpoint="model",
    package="axolotl",
)
