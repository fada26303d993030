"""Decoding on a CPU: matrix products by torch, everything between them by decode.cpp.

In: a Transformer's weights and prompts of different lengths. Out: the logits of each row's next token.
Beware: decode.cpp is compiled for this processor when first needed (about a second) and kept in the user's cache;
`native_library` is None where there is no compiler, and TorchDecoder takes over.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from smalltale.generation.weights import Weights

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("decode.cpp")
COMPILE = ("-O3", "-march=native", "-ffast-math", "-fopenmp", "-fPIC", "-c")
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
        self.sizes = (longest_prompt, min(room, config.context))

        def empty(length: int) -> Tensor:
            shape = (config.layers, rows, config.heads, length, config.head_width)
            return torch.empty(shape, dtype=weights.dtype)

        self.prompt_keys, self.prompt_values = empty(self.sizes[0]), empty(self.sizes[0])
        self.own_keys, self.own_values = empty(self.sizes[1]), empty(self.sizes[1])
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
                T = len(prompt)
                self.prompt_keys[:, place, :, :T] = read.keys[:, number, :, :T]
                self.prompt_values[:, place, :, :T] = read.values[:, number, :, :T]
                self.known[prompt] = (place, read.logits[number])
        context, room = self.weights.config.context, self.sizes[1]
        added = [
            (self.known[each][0], len(each), self.free_slots.pop(), 0, min(room, context - len(each)) - 1)
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
