"""The token folder: token ids of both splits, where each story starts, and what they were made with.

In: a folder. Out: memory-mapped arrays.
Beware: story i is tokens[offsets[i]:offsets[i + 1]], its end token included.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalltale.errors import FileProblem
from smalltale.files import explained, read_json


@dataclass(frozen=True, kw_only=True)
class TokenFolder:
    """Both splits and the record."""

    train: NDArray[Any]
    train_offsets: NDArray[np.uint64]
    val: NDArray[Any]
    val_offsets: NDArray[np.uint64]
    meta: dict[str, Any]


def read_tokens(folder: Path) -> TokenFolder:
    """Open a token folder. Raises FileProblem where it is not one, or where a file is cut short."""
    meta = read_json(folder / "meta.json")
    if meta.get("kind") != "tokens":
        raise FileProblem(
            f"{folder} holds {meta.get('kind')!r}, not tokens; make them with: smalltale tokens encode"
        )
    arrays = {
        f"{split}{part}": read_array(folder / f"{split}{part}.bin", dtype)
        for split in ("train", "val")
        for part, dtype in (("", meta["dtype"]), ("_offsets", "uint64"))
    }
    for split in ("train", "val"):
        ends = arrays[f"{split}_offsets"]
        if not len(ends) or ends[-1] != len(arrays[split]):
            raise FileProblem(f"{folder / f'{split}.bin'} is cut short; encode the corpus again")
    return TokenFolder(meta=meta, **arrays)


def read_array(path: Path, dtype: str) -> NDArray[Any]:
    """A flat array in a file, memory-mapped; a write to it stays in memory."""
    with explained(path):
        if path.stat().st_size == 0:
            return np.zeros(0, dtype=dtype)
        if path.stat().st_size % np.dtype(dtype).itemsize:
            raise FileProblem(f"{path} is cut short; encode the corpus again")
        return np.memmap(path, dtype=dtype, mode="c")
