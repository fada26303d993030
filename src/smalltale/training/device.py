"""Chooses the device, its number type for matrix products, and whether to compile.

Input: a device name ("auto", "cpu", "cuda", "mps"). Output: a Device.
Note: bfloat16 is chosen only where the hardware multiplies it; emulated bfloat16 is slower than float32. NVIDIA's Volta and
Turing cards (for example the T4) multiply only float16, which needs a scaled loss (gradients.py).
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
    """Whether torch.compile works and is faster here."""
    memory_bytes: int

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.kind)

    def synchronize(self) -> None:
        """Wait for queued work, so that a clock read afterwards includes it."""
        if self.kind == "cuda":
            torch.cuda.synchronize()
        elif self.kind == "mps":
            torch.mps.synchronize()


def choose_device(name: str = "auto", gpu_index: int = 0) -> Device:
    """The named device, or for "auto" the fastest available; gpu_index selects one of several GPUs.

    Raises SmalltaleError if the device is missing.
    """
    if name not in {"auto", "cpu", "cuda", "mps"}:
        raise SmalltaleError(f"unknown device {name!r}; choose auto, cpu, cuda or mps")
    if name in {"auto", "cuda"} and torch.cuda.is_available():
        if gpu_index >= torch.cuda.device_count():
            raise SmalltaleError(
                f"there is no GPU {gpu_index}, this machine has {torch.cuda.device_count()}; "
                "start at most one process per GPU (torchrun --nproc-per-node)"
            )
        properties = torch.cuda.get_device_properties(gpu_index)
        return Device(
            kind="cuda",
            name=properties.name,
            dtype=cuda_dtype(properties.major),
            compiles=properties.major >= 7 and can_compile(),  # Triton supports no older card.
            memory_bytes=properties.total_memory,
        )
    if name in {"auto", "mps"} and torch.backends.mps.is_available():
        return Device(
            kind="mps",
            name=apple_chip_name(),
            dtype=torch.bfloat16 if apple_has_bfloat16(apple_chip_name()) else torch.float32,
            compiles=False,
            memory_bytes=torch.mps.recommended_max_memory(),
        )
    if name in {"cuda", "mps"}:
        raise SmalltaleError(f"this machine has no {name} device for torch; leave --device out or choose cpu")
    return Device(
        kind="cpu",
        name=processor_name(),
        dtype=torch.bfloat16 if cpu_has_bfloat16() else torch.float32,
        compiles=can_compile(),
        memory_bytes=main_memory_bytes(),
    )


def cuda_dtype(major: int) -> torch.dtype:
    """The fastest type of an NVIDIA card by major compute capability: bfloat16 from Ampere on, float16 on Volta and Turing."""
    if major >= 8:
        return torch.bfloat16
    return torch.float16 if major == 7 else torch.float32


def apple_chip_name() -> str:
    """The name that the chip reports, such as "Apple M3 Max"."""
    process = subprocess.run(
        ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
    )
    return process.stdout.strip() or f"Apple {platform.machine()}"


def apple_has_bfloat16(chip_name: str) -> bool:
    """Whether the chip is an M3 or newer."""
    generation = re.search(r"\bM(\d+)\b", chip_name)
    return generation is not None and int(generation[1]) >= 3


def cpu_has_bfloat16() -> bool:
    """Whether the processor has AVX512-BF16 or AMX."""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(read_cpuinfo().split())


def read_cpuinfo() -> str:
    """Linux's description of the processor, "" on other systems."""
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def can_compile() -> bool:
    """Whether torch.compile can run: it builds C++ on a CPU, so it needs Linux and a compiler."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None and platform.system() == "Linux"


def processor_name() -> str:
    """The processor's model name, else its architecture."""
    model_name = re.search(r"^model name[^:\n]*:(.*)$", read_cpuinfo(), re.MULTILINE)
    return model_name[1].strip() if model_name else platform.processor() or platform.machine()


def main_memory_bytes() -> int:
    """Bytes of main memory, 0 on systems that do not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0
