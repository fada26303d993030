"""What leaves torch, or comes back, by a door that no operator shows.

In: tensors as the tracer meets them. Out: a line for each door; whether a storage was written unseen.
Beware: contents are compared on the processor alone, and of a large storage in part.
"""

from __future__ import annotations

import ctypes
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

TORCH_FOLDER = str(Path(torch.__file__).parent)
OURS = str(Path(__file__).parents[1])
LEAVES_TORCH = {
    "numpy", "__array__", "tolist", "data_ptr", "__dlpack__", "storage", "untyped_storage", "share_memory_", "__repr__",
    "__format__", "__reduce_ex__", "__deepcopy__", "_typed_storage",
}  # fmt: skip
WHOLE, PIECES = 1 << 16, 16
"""Bytes of a storage compared whole; a larger one in so many pieces, of as many bytes together."""


def caller() -> str:
    """File and line of the innermost frame outside torch and this package's tracer."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((TORCH_FOLDER, OURS)) and "torch/" not in name:
            return f"{Path(name).name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "torch"


class Leaving(TorchFunctionMode):
    """Tells `left` of every tensor that leaves torch by another door than an operator."""

    def __init__(self, left: Callable[[Tensor, str], None]) -> None:
        super().__init__()
        self.left = left

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in LEAVES_TORCH and args and isinstance(args[0], Tensor):
            self.left(args[0], name)
        return func(*args, **(kwargs or {}))


class Contents:
    """What each storage held when an operator that was seen last wrote it."""

    def __init__(self) -> None:
        self.sums: dict[int, int] = {}

    def note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.device.type == "cpu":
            self.sums[storage._cdata] = checksum(storage)

    def changed(self, tensor: Tensor) -> bool:
        """Whether something unseen has written it since; the first look is taken as what it holds."""
        storage = tensor.untyped_storage()
        before = self.sums.get(storage._cdata)
        if before is None:
            self.note(tensor)
            return False
        return before != checksum(storage)


def checksum(storage: torch.UntypedStorage) -> int:
    size, place = storage.nbytes(), storage.data_ptr()
    if size <= WHOLE:
        return zlib.crc32(ctypes.string_at(place, size)) if size else 0
    piece, found = WHOLE // PIECES, 0
    for number in range(PIECES):
        start = (size - piece) * number // (PIECES - 1)
        found = zlib.crc32(ctypes.string_at(place + start, piece), found)
    return found
