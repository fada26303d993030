"""Detects tensors that leave torch, and storages that are written, without an operator that the tracer sees.

Input: tensors as the tracer sees them. Output: a callback per escape; whether a storage was written unseen.
Contents are compared for CPU storages only, and in samples for large ones.
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
COUNTING_FOLDER = str(Path(__file__).parents[1])
ESCAPES = {
    "numpy", "__array__", "tolist", "data_ptr", "__dlpack__", "storage", "untyped_storage", "share_memory_", "__repr__",
    "__format__", "__reduce_ex__", "__deepcopy__", "_typed_storage",
}  # fmt: skip
"""Tensor methods that give access to numbers outside torch's operators."""
SAMPLE_BYTES, SAMPLES = 1 << 16, 16
"""A storage of up to SAMPLE_BYTES is compared completely, a larger one in SAMPLES pieces of that total size."""


def caller_location() -> str:
    """File and line of the innermost frame outside torch and this package."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((TORCH_FOLDER, COUNTING_FOLDER)) and "torch/" not in name:
            return f"{Path(name).name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "torch"


class EscapeMode(TorchFunctionMode):
    """Calls `on_escape` with the tensor and the method's name for every call of a method in ESCAPES."""

    def __init__(self, on_escape: Callable[[Tensor, str], None]) -> None:
        super().__init__()
        self.on_escape = on_escape

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in ESCAPES and args and isinstance(args[0], Tensor):
            self.on_escape(args[0], name)
        return func(*args, **(kwargs or {}))


class StorageChecksums:
    """A checksum of each storage, from when a traced operator last wrote it."""

    def __init__(self) -> None:
        self.checksums: dict[int, int] = {}

    def record(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.device.type == "cpu":
            self.checksums[storage._cdata] = checksum(storage)

    def has_changed(self, tensor: Tensor) -> bool:
        """Whether something untraced has written the storage since; a storage seen for the first time is recorded."""
        storage = tensor.untyped_storage()
        recorded = self.checksums.get(storage._cdata)
        if recorded is None:
            self.record(tensor)
            return False
        return recorded != checksum(storage)


def checksum(storage: torch.UntypedStorage) -> int:
    size, address = storage.nbytes(), storage.data_ptr()
    if size <= SAMPLE_BYTES:
        return zlib.crc32(ctypes.string_at(address, size)) if size else 0
    sample, crc = SAMPLE_BYTES // SAMPLES, 0
    for number in range(SAMPLES):
        start = (size - sample) * number // (SAMPLES - 1)
        crc = zlib.crc32(ctypes.string_at(address + start, sample), crc)
    return crc
