"""Read a token folder: the token ids of both splits, the offsets of the stories, and meta.json.

Input: a folder. Output: memory-mapped arrays; story i is tokens[offsets[i]:offsets[i + 1]], end token included.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalltale.errors import FileProblem
from smalltale.files import read_json, translate_os_errors


@dataclass(frozen=True, kw_only=True)
class TokenFolder:
    """The tokens and story offsets of both splits, and the contents of meta.json."""

    train: NDArray[Any]
    train_offsets: NDArray[np.uint64]
    val: NDArray[Any]
    val_offsets: NDArray[np.uint64]
    meta: dict[str, Any]


def read_tokens(folder: Path) -> TokenFolder:
    """Open a token folder. Raises FileProblem if it is not one or a file is truncated."""
    meta = read_json(folder / "meta.json")
    if meta.get("kind") != "tokens":
        kind = meta.get("kind")
        raise FileProblem(f"{folder} contains {kind!r}, not tokens; make these with: smalltale tokens encode")
    arrays = {
        f"{split}{part}": read_array(folder / f"{split}{part}.bin", dtype)
        for split in ("train", "val")
        for part, dtype in (("", meta["dtype"]), ("_offsets", "uint64"))
    }
    for split in ("train", "val"):
        ends = arrays[f"{split}_offsets"]
        if not len(ends) or ends[-1] != len(arrays[split]):
            raise FileProblem(f"{folder / f'{split}.bin'} is truncated; encode the corpus again")
    return TokenFolder(meta=meta, **arrays)


def read_array(path: Path, dtype: str) -> NDArray[Any]:
    """Memory-map a flat array; writes to it stay in memory."""
    with translate_os_errors(path):
        if path.stat().st_size == 0:
            return np.zeros(0, dtype=dtype)
        if path.stat().st_size % np.dtype(dtype).itemsize:
            raise FileProblem(f"{path} is truncated; encode the corpus again")
        return np.memmap(path, dtype=dtype, mode="c")
