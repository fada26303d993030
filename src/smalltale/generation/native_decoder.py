"""Decoding on a CPU: matrix products by torch, everything between them by decode.cpp.

In: a Transformer's weights and prompts of different lengths. Out: the logits of each row's next token.
Beware: decode.cpp is compiled for this processor when first needed (about a second) and kept in the user's cache;
`native_library` is None where there is no compiler, and TorchDecoder takes over.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import math
import mmap
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from smalltale.generation.inference_weights import Weights

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("decode.cpp")
COMPILE = ("-O3", "-march=native", "-ffast-math", "-fopenmp", "-fPIC", "-c")
LANES = 16
"""Places of a block of keys, as in decode.cpp."""
LINK = ("-shared", "-fopenmp")
"""Linked apart: linking with -ffast-math would change the rounding of the whole process."""
INT, POINTER, FLOAT = ctypes.c_int64, ctypes.c_void_p, ctypes.c_float
ARGUMENTS = {
    "residual_norm": [POINTER, POINTER, POINTER, FLOAT, FLOAT, POINTER, INT, INT],
    "squared_relu": [POINTER, INT],
    "attend": [POINTER] * 12 + [INT] * 5,
}


@cache
def native_library() -> ctypes.CDLL | None:
    """decode.cpp, compiled; None where that is not possible."""
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("g++")
    if compiler is None:
        return None
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "smalltale"
    told = SOURCE.read_bytes() + repr((COMPILE, LINK, processor())).encode()
    path = home / f"decode-{hashlib.sha256(told).hexdigest()[:16]}.so"
    try:
        if not path.exists():
            build(compiler, path)
        library = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        log.info("decoding without its compiled part (%s): slower, the same words", error)
        return None
    library.likeliest.argtypes, library.likeliest.restype = [POINTER, INT, INT, INT, POINTER, POINTER], None
    for name, arguments in ARGUMENTS.items():
        for dtype in ("float32", "bfloat16"):
            function = getattr(library, f"{name}_{dtype}")
            function.argtypes, function.restype = arguments, None
    return library


def processor() -> str:
    """What -march=native depends on."""
    try:
        flags = next(
            line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags")
        )
    except (OSError, StopIteration):
        flags = ""
    return f"{platform.machine()} {platform.processor()} {flags}"


def build(compiler: str, path: Path) -> None:
    """Compile to a temporary name, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part, whole = Path(folder) / "decode.o", Path(folder) / "decode.so"
        for command in ((*COMPILE, str(SOURCE), "-o", str(part)), (*LINK, str(part), "-o", str(whole))):
            subprocess.run([compiler, *command], check=True, capture_output=True, timeout=120)
        whole.replace(path)


def likeliest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest logits of each row and their ids, largest first: (B, V) float32 -> (B, count), (B, count).

    torch.topk takes 6.6 ms for 50 of 4,096 in 300 rows on two cores of an EPYC (2026-11-26), a tenth of a whole decoding step.
    """
    library = native_library() if logits.device.type == "cpu" else None
    if library is None:
        values, ids = logits.topk(count, dim=-1)
        return values, ids
    logits = logits.contiguous()
    (B, V), shape = logits.shape, (len(logits), count)
    values, ids = torch.empty(shape), torch.empty(shape, dtype=torch.long)
    library.likeliest(logits.data_ptr(), B, V, count, values.data_ptr(), ids.data_ptr())
    return values, ids


class NativeDecoder:
    """Rows in fixed slots; the keys and values of a prompt stand once for all its rows."""

    def __init__(
        self, weights: Weights, library: ctypes.CDLL, rows: int, longest_prompt: int, room: int
    ) -> None:
        self.weights, config = weights, weights.config
        self.type = str(weights.dtype).removeprefix("torch.")
        self.residual_norm = getattr(library, f"residual_norm_{self.type}")
        self.squared_relu = getattr(library, f"squared_relu_{self.type}")
        self.attend = getattr(library, f"attend_{self.type}")
        self.room = min(room, config.context)
        self.sizes = (whole_lanes(longest_prompt), whole_lanes(self.room))

        def zeros(length: int) -> Tensor:
            # zeros: what stands behind a row's end is read, times nothing
            width = length * whole_lanes(config.head_width)
            return zeros_on_large_pages((config.layers, rows, config.heads, width), weights.dtype)

        self.prompt_keys, self.prompt_values = zeros(self.sizes[0]), zeros(self.sizes[0])
        self.own_keys, self.own_values = zeros(self.sizes[1]), zeros(self.sizes[1])
        self.free_slots = list(range(rows))
        self.free_prompts = list(range(rows))
        self.known: dict[tuple[int, ...], tuple[int, Tensor]] = {}
        """Prompts in the cache: their place, and the logits behind them (V,)."""
        self.prompts: list[tuple[int, ...]] = []
        """The prompt of each row."""
        self.rows = torch.zeros((5, 0), dtype=torch.long)
        """For each row: its prompt's place, the prompt's length, its slot, tokens of its own, and the most of these."""

    @torch.inference_mode()
    def add(self, prompts: list[list[int]]) -> Tensor:
        """Read new prompts, each once, and add a row for each of the list. Returns logits (new rows, V)."""
        wanted = [tuple(each) for each in prompts]
        new = [each for each in dict.fromkeys(wanted) if each not in self.known]
        if new:
            read = self.weights.read([list(each) for each in new])
            for number, prompt in enumerate(new):
                place = self.free_prompts.pop()
                keys, values = (each[:, number, :, : len(prompt)] for each in (read.keys, read.values))
                size = whole_lanes(len(prompt)) * whole_lanes(self.weights.config.head_width)
                self.prompt_keys[:, place, :, :size] = packed_keys(keys)
                self.prompt_values[:, place, :, :size] = packed_values(values)
                self.known[prompt] = (place, read.logits[number])
        context = self.weights.config.context
        added = [
            (
                self.known[each][0],
                len(each),
                self.free_slots.pop(),
                0,
                min(self.room, context - len(each)) - 1,
            )
            for each in wanted
        ]
        self.rows = torch.cat((self.rows, torch.tensor(added, dtype=torch.long).T), dim=1).contiguous()
        self.prompts += wanted
        return torch.stack([self.known[each][1] for each in wanted])

    @torch.inference_mode()
    def step(self, ids: Tensor) -> Tensor:
        """Take one token a row, ids: (B,). Returns logits (B, V)."""
        weights, config, B = self.weights, self.weights.config, len(ids)
        C = config.width
        first = weights.first(ids).contiguous()
        x = first.clone()
        features = torch.empty((B, C), dtype=weights.dtype)
        mixed = torch.empty((B, C), dtype=weights.dtype)
        cosine, sine = weights.cosine.data_ptr(), weights.sine.data_ptr()
        row_facts = [each.data_ptr() for each in self.rows[:4]]
        fed: Tensor | None = None
        for number, layer in enumerate(weights.layers):
            added = None if fed is None else fed.data_ptr()
            self.residual_norm(
                x.data_ptr(), added, first.data_ptr(), layer.scale, layer.back, features.data_ptr(), B, C
            )
            qkv = weights.product(features, layer.qkv)
            caches = (self.prompt_keys, self.prompt_values, self.own_keys, self.own_values)
            self.attend(
                qkv.data_ptr(),
                cosine,
                sine,
                *(each[number].data_ptr() for each in caches),
                *row_facts,
                mixed.data_ptr(),
                B,
                config.heads,
                config.head_width,
                *self.sizes,
            )
            out = weights.product(mixed, layer.out)
            self.residual_norm(x.data_ptr(), out.data_ptr(), None, 1.0, 0.0, features.data_ptr(), B, C)
            hidden = weights.product(features, layer.up)
            self.squared_relu(hidden.data_ptr(), hidden.numel())
            fed = weights.product(hidden, layer.down)
        assert fed is not None
        self.residual_norm(x.data_ptr(), fed.data_ptr(), None, 1.0, 0.0, features.data_ptr(), B, C)
        # a finished row that is still fed overwrites its last place
        self.rows[3] = torch.minimum(self.rows[3] + 1, self.rows[4])
        return weights.head(features)

    def keep(self, rows: list[int]) -> None:
        """Drop all but `rows`; the slots and prompts of the others are free again."""
        kept = set(rows)
        for row, slot in enumerate(self.rows[2].tolist()):
            if row not in kept:
                self.free_slots.append(slot)
        self.prompts = [self.prompts[row] for row in rows]
        for gone in self.known.keys() - set(self.prompts):
            self.free_prompts.append(self.known.pop(gone)[0])
        self.rows = self.rows[:, rows].contiguous()


def zeros_on_large_pages(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros on pages of 2 MB where the system has them.

    Keys and values are read once a step, from end to end: on two cores of a virtual Xeon 17 GB/s on large pages, 8.5 GB/s on
    pages of 4 KB (2026-11-24).
    """
    count = math.prod(shape)
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(shape, dtype=dtype)
    # private: shared memory has large pages only where the system's owner allows it
    memory = mmap.mmap(-1, count * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype, count=count).view(shape)


def whole_lanes(count: int) -> int:
    """The count, filled up to whole blocks."""
    return -(-count // LANES) * LANES


def packed_keys(keys: Tensor) -> Tensor:
    """keys (L, H, T, D) as decode.cpp's key_at has them: (L, H, whole blocks of T * D)."""
    filled, pack = filled_up(keys), 4 // keys.element_size()
    L, H, T, D = filled.shape
    blocks = filled.view(L, H, T // LANES, LANES, D // pack, pack)
    return blocks.transpose(3, 4).reshape(L, H, T * D)


def packed_values(values: Tensor) -> Tensor:
    """values (L, H, T, D) as decode.cpp's value_at has them: (L, H, whole blocks of T * D)."""
    filled, pack = filled_up(values), 4 // values.element_size()
    L, H, T, D = filled.shape
    return filled.view(L, H, T // pack, pack, D).transpose(3, 4).reshape(L, H, T * D)


def filled_up(kept: Tensor) -> Tensor:
    """(L, H, T, D) with zeros up to whole blocks in T and D."""
    T, D = kept.shape[2:]
    return F.pad(kept, (0, whole_lanes(D) - D, 0, whole_lanes(T) - T))
