"""The figures of a step that are not the model's: how fast, how much of the machine, how much memory.

In: a device, the work of a token, tokens and seconds. Out: figures for metrics.jsonl, trackers and the display.
Beware: MFU counts the work by the project's definition, 6·N + 6·L·T·d a token as if attention were full and causal,
whatever the run really computes; the peak it is a share of is named beside it.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from smalltale.training.device import Device

PROBE_SECONDS = 0.3

DATA_SHEET = "NVIDIA's data sheet"
WHITE_PAPER = "NVIDIA's architecture white paper"
PEAKS: tuple[tuple[str, float, str], ...] = (
    ("b200", 2250, DATA_SHEET),
    ("gh200", 989, DATA_SHEET),
    ("h200", 989, DATA_SHEET),
    ("h200 nvl", 835, DATA_SHEET),
    ("h100", 989, DATA_SHEET),
    ("h100 nvl", 835, DATA_SHEET),
    ("h100 pcie", 756, DATA_SHEET),
    ("a100", 312, DATA_SHEET),
    ("a100 pcie", 312, DATA_SHEET),
    ("l40s", 362, DATA_SHEET),
    ("l40", 181, DATA_SHEET),
    ("l4", 121, DATA_SHEET),
    ("a40", 150, DATA_SHEET),
    ("a10", 125, DATA_SHEET),
    ("a6000", 155, DATA_SHEET),
    ("5090", 209, WHITE_PAPER),
    ("5080", 113, WHITE_PAPER),
    ("5070 ti", 88, WHITE_PAPER),
    ("5070", 62, WHITE_PAPER),
    ("4090", 165, WHITE_PAPER),
    ("4080", 97, WHITE_PAPER),
    ("4070 ti", 80, WHITE_PAPER),
    ("4070", 58, WHITE_PAPER),
    ("3090", 71, WHITE_PAPER),
    ("3080", 60, WHITE_PAPER),
    ("3070", 41, WHITE_PAPER),
    ("mi300x", 1307, "AMD's data sheet"),
)
"""Words of a card's name, its dense bfloat16 TFLOP/s with sums in float32 (sparsity is no speed for us), the source."""
OTHER_CARD = {"laptop", "max", "mobile", "mig", "ti", "super", "d", "nvl", "pcie", "ada", "blackwell", "pro"}
"""Words that make another card of a name; a row without them does not speak for it."""


@dataclass(frozen=True, kw_only=True)
class Yardstick:
    """What a run's speed is measured against; made once a run."""

    flops_per_token: int
    peak: float
    """FLOP/s of all the run's devices together."""
    peak_name: str

    def mfu(self, tokens_per_second: float) -> float:
        """Share of the peak, from 0 to 1, that so many tokens a second are."""
        return self.flops_per_token * tokens_per_second / self.peak if self.peak else 0.0


def yardstick(flops_per_token: int, device: Device, devices: int = 1) -> Yardstick:
    """The yardstick of a run on so many devices of one kind."""
    peak, name = peak_flops(device)
    return Yardstick(
        flops_per_token=flops_per_token,
        peak=devices * peak,
        peak_name=f"{devices} × {name}" if devices > 1 else name,
    )


def step_figures(yardstick: Yardstick, device: Device, *, tokens: int, seconds: float) -> dict[str, float]:
    """The figures of the last `seconds`, in which all devices together trained on `tokens`."""
    speed = tokens / seconds if seconds else 0.0
    used, peak = memory(device)
    return {
        "tokens_per_second": round(speed, 1),
        "mfu": round(yardstick.mfu(speed), 4),
        "memory_bytes": used,
        "memory_peak_bytes": peak,
    }


def told(step: int, figures: Mapping[str, float]) -> list[str]:
    """A step's figures as short words, the most important first: a narrow display leaves out the last ones."""
    words = []
    if "loss" in figures:
        words.append(f"loss {figures['loss']:.3f}")
    if "bits_per_byte" in figures:
        words.append(f"{figures['bits_per_byte']:.3f} bits/byte")
    if "tokens_per_second" in figures:
        words.append(f"{figures['tokens_per_second']:,.0f} tokens/s")
    if "mfu" in figures:
        words.append(f"MFU {100 * figures['mfu']:.0f} %")
    if figures.get("memory_peak_bytes"):
        words.append(f"{figures['memory_peak_bytes'] / 2**30:.1f} GiB")
    return [*words, f"step {step:,}"]


def peak_flops(device: Device) -> tuple[float, str]:
    """A device's peak in FLOP/s and where the figure is from: a data sheet, else a measured matrix product."""
    if device.kind == "cuda" and device.dtype in {torch.bfloat16, torch.float16}:
        listed = listed_peak(device.name)
        if listed is not None:
            return listed
    return measured_peak(device), f"{device.name}, measured matrix product in {str(device.dtype)[6:]}"


def listed_peak(name: str) -> tuple[float, str] | None:
    """The peak of a card that PEAKS knows by its whole name."""
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    for card, teraflops, source in PEAKS:
        wanted = set(card.split())
        if wanted <= words and words & OTHER_CARD == wanted & OTHER_CARD:
            return teraflops * 1e12, f"{name}, {teraflops:,.0f} TFLOP/s dense bfloat16 ({source})"
    return None


@cache
def measured_peak(device: Device) -> float:
    """FLOP/s of the fastest of many matrix products in the training type, measured once in a process."""
    n = 1024 if device.kind == "cpu" else 4096
    left = torch.randn(n, n, device=device.torch_device, dtype=device.dtype)
    right = torch.randn(n, n, device=device.torch_device, dtype=device.dtype)
    left @ right
    device.synchronize()
    fastest, until = float("inf"), time.perf_counter() + PROBE_SECONDS
    while (began := time.perf_counter()) < until:
        for _ in range(4):
            left @ right
        device.synchronize()
        fastest = min(fastest, time.perf_counter() - began)
    return 4 * 2 * n**3 / fastest


def memory(device: Device) -> tuple[int, int]:
    """Bytes in use now, and at most so far: the device's own memory, on a CPU this process's."""
    if device.kind == "cuda":
        return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    if device.kind == "mps":
        return torch.mps.current_allocated_memory(), torch.mps.driver_allocated_memory()
    return process_memory()


def process_memory() -> tuple[int, int]:
    """Resident bytes of this process, now and at most; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0, 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    pages = Path("/proc/self/statm")
    now = int(pages.read_text().split()[1]) * resource.getpagesize() if pages.exists() else peak
    return now, max(now, peak)
