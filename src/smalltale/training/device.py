"""What this machine trains on, and how: device, number type, compilation.

In: a wish ("auto", "cpu", "cuda", "mps"). Out: a Device.
Beware: bfloat16 is chosen only where the processor multiplies in it; emulated it is slower than float32. NVIDIA's Volta
and Turing cards (a T4) multiply in float16 alone, which needs a scaled loss (step.py).
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

from smalltale.errors import SmalltaleError


@dataclass(frozen=True, kw_only=True)
class Device:
    """Where and in which number type the model computes."""

    kind: str
    """"cpu", "cuda" or "mps"."""
    name: str
    dtype: torch.dtype
    """The type of matrix products; weights stay in float32."""
    compiles: bool
    """Whether torch.compile is at hand and pays here."""
    memory_bytes: int

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.kind)

    def synchronize(self) -> None:
        """Wait for queued work, so that a clock read afterwards is true."""
        if self.kind == "cuda":
            torch.cuda.synchronize()
        elif self.kind == "mps":
            torch.mps.synchronize()


def choose_device(wish: str = "auto", number: int = 0) -> Device:
    """The wished device, or the fastest at hand; of several GPUs the one with this number.

    Raises SmalltaleError where the wished one is missing.
    """
    if wish not in {"auto", "cpu", "cuda", "mps"}:
        raise SmalltaleError(f"there is no device {wish!r}; choose auto, cpu, cuda or mps")
    if wish in {"auto", "cuda"} and torch.cuda.is_available():
        if number >= torch.cuda.device_count():
            raise SmalltaleError(
                f"there is no GPU {number}, this machine has {torch.cuda.device_count()}; "
                "start at most one process a GPU (torchrun --nproc-per-node)"
            )
        properties = torch.cuda.get_device_properties(number)
        return Device(
            kind="cuda",
            name=properties.name,
            dtype=card_type(properties.major),
            compiles=properties.major >= 7 and can_compile(),  # Triton knows no older card.
            memory_bytes=properties.total_memory,
        )
    if wish in {"auto", "mps"} and torch.backends.mps.is_available():
        return Device(
            kind="mps",
            name=apple_chip(),
            dtype=torch.bfloat16 if apple_multiplies_bfloat16(apple_chip()) else torch.float32,
            compiles=False,
            memory_bytes=torch.mps.recommended_max_memory(),
        )
    if wish in {"cuda", "mps"}:
        raise SmalltaleError(
            f"this machine has no {wish} device that torch can use; leave --device out or choose cpu"
        )
    return Device(
        kind="cpu",
        name=processor_name(),
        dtype=torch.bfloat16 if cpu_multiplies_bfloat16() else torch.float32,
        compiles=can_compile(),
        memory_bytes=main_memory(),
    )


def card_type(major: int) -> torch.dtype:
    """What an NVIDIA card of a compute capability multiplies fastest: bfloat16 from Ampere on, float16 on Volta and Turing."""
    if major >= 8:
        return torch.bfloat16
    return torch.float16 if major == 7 else torch.float32


def apple_chip() -> str:
    """The chip's own name, such as "Apple M3 Max"."""
    asked = subprocess.run(
        ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or f"Apple {platform.machine()}"


def apple_multiplies_bfloat16(chip: str) -> bool:
    """Whether a chip of this name is an M3 or newer."""
    found = re.search(r"\bM(\d+)\b", chip)
    return found is not None and int(found[1]) >= 3


def cpu_multiplies_bfloat16() -> bool:
    """Whether the processor has AVX512-BF16 or AMX."""
    flags = Path("/proc/cpuinfo")
    if not flags.exists():
        return False
    words = set(flags.read_text(encoding="utf-8", errors="replace").split())
    return bool({"avx512_bf16", "amx_bf16"} & words)


def can_compile() -> bool:
    """torch.compile builds C++ on a CPU; without a compiler the model runs eagerly."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None and platform.system() == "Linux"


def processor_name() -> str:
    """The processor's own name where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main_memory() -> int:
    """Bytes of main memory, 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0
