"""Decoding on a CPU: matmuls in PyTorch, everything between them in decode.cpp.

Input: a Transformer's weights and prompts of different lengths. Output: the logits of each row's next token.
decode.cpp is compiled for this processor on first use (about a second) and cached in the user's cache folder. Without a
compiler `load_native_library` returns None and TorchDecoder is used.
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

from smalltale.generation.inference_weights import InferenceWeights, LayerWeights

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("decode.cpp")
COMPILE_FLAGS = ("-O3", "-march=native", "-ffast-math", "-fopenmp", "-fPIC", "-c")
LINK_FLAGS = ("-shared", "-fopenmp")
"""Linked in a separate command: linking with -ffast-math would change the rounding of the whole process."""
LANES = 16
"""Positions per block of keys, as in decode.cpp."""
INT, POINTER, FLOAT = ctypes.c_int64, ctypes.c_void_p, ctypes.c_float
ARGUMENT_TYPES = {
    "residual_norm": [POINTER, POINTER, POINTER, FLOAT, FLOAT, POINTER, INT, INT],
    "squared_relu": [POINTER, INT],
    "attend": [POINTER] * 12 + [INT] * 5,
}


@cache
def load_native_library() -> ctypes.CDLL | None:
    """decode.cpp, compiled; None if that fails."""
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("g++")
    if compiler is None:
        return None
    cache_folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "smalltale"
    cache_key = SOURCE.read_bytes() + repr((COMPILE_FLAGS, LINK_FLAGS, describe_processor())).encode()
    path = cache_folder / f"decode-{hashlib.sha256(cache_key).hexdigest()[:16]}.so"
    try:
        if not path.exists():
            compile_library(compiler, path)
        library = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        log.info("decode.cpp could not be compiled (%s): generation is slower, with the same results", error)
        return None
    library.top_k.argtypes, library.top_k.restype = [POINTER, INT, INT, INT, POINTER, POINTER], None
    for name, argument_types in ARGUMENT_TYPES.items():
        for dtype in ("float32", "bfloat16"):
            function = getattr(library, f"{name}_{dtype}")
            function.argtypes, function.restype = argument_types, None
    return library


def describe_processor() -> str:
    """The processor features on which -march=native depends."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next(line for line in lines if line.startswith("flags"))
    except (OSError, StopIteration):
        flags = ""
    return f"{platform.machine()} {platform.processor()} {flags}"


def compile_library(compiler: str, path: Path) -> None:
    """Compile to a temporary name, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        object_file, library = Path(folder) / "decode.o", Path(folder) / "decode.so"
        for arguments in (
            (*COMPILE_FLAGS, str(SOURCE), "-o", str(object_file)),
            (*LINK_FLAGS, str(object_file), "-o", str(library)),
        ):
            subprocess.run([compiler, *arguments], check=True, capture_output=True, timeout=120)
        library.replace(path)


def top_k(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The largest logits of each row and their ids, largest first: (B, V) float32 -> (B, k), (B, k).

    torch.topk takes 6.6 ms for 50 of 4,096 in 300 rows on two cores of an EPYC (2026-11-26), a tenth of a decoding step.
    """
    library = load_native_library() if logits.device.type == "cpu" else None
    if library is None:
        values, ids = logits.topk(k, dim=-1)
        return values, ids
    logits = logits.contiguous()
    B, V = logits.shape
    values, ids = torch.empty(B, k), torch.empty(B, k, dtype=torch.long)
    library.top_k(logits.data_ptr(), B, V, k, values.data_ptr(), ids.data_ptr())
    return values, ids


class NativeDecoder:
    """Rows in fixed slots of the KV cache; the keys and values of a prompt are stored once for all its rows."""

    def __init__(
        self,
        weights: InferenceWeights,
        library: ctypes.CDLL,
        rows: int,
        longest_prompt: int,
        max_new_tokens: int,
    ) -> None:
        self.weights, config = weights, weights.config
        dtype = str(weights.dtype).removeprefix("torch.")
        self.residual_norm = getattr(library, f"residual_norm_{dtype}")
        self.squared_relu = getattr(library, f"squared_relu_{dtype}")
        self.attend = getattr(library, f"attend_{dtype}")
        self.max_new_tokens = min(max_new_tokens, config.context)
        self.prompt_length, self.own_length = pad_to_lanes(longest_prompt), pad_to_lanes(self.max_new_tokens)

        def allocate_cache(length: int) -> Tensor:
            # Zeros, because positions after a row's end are read too, with weight 0.
            size = length * pad_to_lanes(config.head_width)
            return zeros_on_huge_pages((config.layers, rows, config.heads, size), weights.dtype)

        self.prompt_keys, self.prompt_values = (allocate_cache(self.prompt_length) for _ in range(2))
        self.own_keys, self.own_values = (allocate_cache(self.own_length) for _ in range(2))
        self.free_slots = list(range(rows))
        self.free_prompt_slots = list(range(rows))
        self.cached_prompts: dict[tuple[int, ...], tuple[int, Tensor]] = {}
        """Prompts in the cache: their slot, and the logits of the token after them (V,)."""
        self.prompts: list[tuple[int, ...]] = []
        """The prompt of each row."""
        self.rows = torch.zeros((5, 0), dtype=torch.long)
        """Per row: the prompt's slot, the prompt's length, the row's slot, its count of own tokens, and their maximum."""

    @torch.inference_mode()
    def add(self, prompts: list[list[int]]) -> Tensor:
        """Append a row per prompt; a prompt not in the cache is read once. Returns logits (new rows, V)."""
        row_prompts = [tuple(prompt) for prompt in prompts]
        new_prompts = [prompt for prompt in dict.fromkeys(row_prompts) if prompt not in self.cached_prompts]
        if new_prompts:
            prefill = self.weights.prefill([list(prompt) for prompt in new_prompts])
            for index, prompt in enumerate(new_prompts):
                slot, length = self.free_prompt_slots.pop(), len(prompt)
                size = pad_to_lanes(length) * pad_to_lanes(self.weights.config.head_width)
                self.prompt_keys[:, slot, :, :size] = pack_keys(prefill.keys[:, index, :, :length])
                self.prompt_values[:, slot, :, :size] = pack_values(prefill.values[:, index, :, :length])
                self.cached_prompts[prompt] = (slot, prefill.logits[index])
        new_rows = []
        for prompt in row_prompts:
            max_own_tokens = min(self.max_new_tokens, self.weights.config.context - len(prompt)) - 1
            prompt_slot = self.cached_prompts[prompt][0]
            new_rows.append((prompt_slot, len(prompt), self.free_slots.pop(), 0, max_own_tokens))
        self.rows = torch.cat((self.rows, torch.tensor(new_rows, dtype=torch.long).T), dim=1).contiguous()
        self.prompts += row_prompts
        return torch.stack([self.cached_prompts[prompt][1] for prompt in row_prompts])

    @torch.inference_mode()
    def step(self, ids: Tensor) -> Tensor:
        """Append one token per row, ids: (B,). Returns logits (B, V)."""
        weights, config, B = self.weights, self.weights.config, len(ids)
        C = config.width
        embedding = weights.embed(ids).contiguous()
        x = embedding.clone()
        features = torch.empty((B, C), dtype=weights.dtype)
        mixed = torch.empty((B, C), dtype=weights.dtype)
        rotation = (weights.cosine.data_ptr(), weights.sine.data_ptr())
        rows = [values.data_ptr() for values in self.rows[:4]]
        caches = (self.prompt_keys, self.prompt_values, self.own_keys, self.own_values)
        sizes = (B, config.heads, config.head_width, self.prompt_length, self.own_length)
        mlp_out: Tensor | None = None

        def add_and_norm(out: Tensor | None, layer: LayerWeights | None = None) -> None:
            """x += out; at the input of `layer`, mix the embedding into x; features = norm(x)."""
            added, mixed_in = (
                out.data_ptr() if out is not None else None,
                embedding.data_ptr() if layer else None,
            )
            scales = (layer.residual_scale, layer.embedding_scale) if layer else (1.0, 0.0)
            self.residual_norm(x.data_ptr(), added, mixed_in, *scales, features.data_ptr(), B, C)

        for layer_index, layer in enumerate(weights.layers):
            add_and_norm(mlp_out, layer)
            qkv = weights.matmul(features, layer.qkv)
            layer_caches = (cache[layer_index].data_ptr() for cache in caches)
            self.attend(qkv.data_ptr(), *rotation, *layer_caches, *rows, mixed.data_ptr(), *sizes)
            add_and_norm(weights.matmul(mixed, layer.out))
            hidden = weights.matmul(features, layer.up)
            self.squared_relu(hidden.data_ptr(), hidden.numel())
            mlp_out = weights.matmul(hidden, layer.down)
        add_and_norm(mlp_out)
        # A finished row that has not been dropped yet overwrites its last position.
        self.rows[3] = torch.minimum(self.rows[3] + 1, self.rows[4])
        return weights.head(features)

    def keep(self, rows: list[int]) -> None:
        """Keep only `rows`; the slots of all other rows, and of prompts without a row, are free again."""
        remaining = set(rows)
        for row, slot in enumerate(self.rows[2].tolist()):
            if row not in remaining:
                self.free_slots.append(slot)
        self.prompts = [self.prompts[row] for row in rows]
        for prompt in self.cached_prompts.keys() - set(self.prompts):
            self.free_prompt_slots.append(self.cached_prompts.pop(prompt)[0])
        self.rows = self.rows[:, rows].contiguous()


def zeros_on_huge_pages(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros on huge pages (2 MB) if the system has them.

    Keys and values are read completely in each step: at 17 GB/s on huge pages, at 8.5 GB/s on pages of 4 KB, on two cores
    of a virtual Xeon (2026-11-24).
    """
    count = math.prod(shape)
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(shape, dtype=dtype)
    # MAP_PRIVATE: shared memory has huge pages only if the system's administrator allows it.
    memory = mmap.mmap(-1, count * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype, count=count).view(shape)


def pad_to_lanes(count: int) -> int:
    """The count rounded up to a multiple of LANES."""
    return -(-count // LANES) * LANES


def pack_keys(keys: Tensor) -> Tensor:
    """keys (L, H, T, D) in the layout of decode.cpp's key_offset: (L, H, T * D), with T and D padded."""
    padded, pack = pad_cache(keys), 4 // keys.element_size()
    L, H, T, D = padded.shape
    blocks = padded.view(L, H, T // LANES, LANES, D // pack, pack)
    return blocks.transpose(3, 4).reshape(L, H, T * D)


def pack_values(values: Tensor) -> Tensor:
    """values (L, H, T, D) in the layout of decode.cpp's value_offset: (L, H, T * D), with T and D padded."""
    padded, pack = pad_cache(values), 4 // values.element_size()
    L, H, T, D = padded.shape
    return padded.view(L, H, T // pack, pack, D).transpose(3, 4).reshape(L, H, T * D)


def pad_cache(cache: Tensor) -> Tensor:
    """(L, H, T, D), with T and D zero-padded to multiples of LANES."""
    T, D = cache.shape[2:]
    return F.pad(cache, (0, pad_to_lanes(D) - D, 0, pad_to_lanes(T) - T))
