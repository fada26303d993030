"""Speed, model FLOPs utilisation (MFU) and memory of a training step.

Input: a device, FLOPs per token, tokens and seconds. Output: metrics for metrics.jsonl, trackers and the display.
Note: MFU uses the project's definition of FLOPs, 6·N + 6·L·T·d per token as for full causal attention, independent of
what the run really computes. Its peak is named with it.
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
"""Words of a card's name, its dense bfloat16 TFLOP/s with float32 accumulation (without sparsity), the source."""
VARIANTS = {"laptop", "max", "mobile", "mig", "ti", "super", "d", "nvl", "pcie", "ada", "blackwell", "pro"}
"""Words that make a card a different model; a row of PEAKS without them does not apply to it."""


@dataclass(frozen=True, kw_only=True)
class MfuBaseline:
    """What model FLOPs utilisation (MFU) is computed from, fixed for a run; meta.json contains its fields."""

    flops_per_token: int
    peak_flops: float
    """FLOP/s of all devices of the run together."""
    peak_name: str

    def mfu(self, tokens_per_second: float) -> float:
        """Share of the peak, from 0 to 1, at a speed."""
        return self.flops_per_token * tokens_per_second / self.peak_flops if self.peak_flops else 0.0


def make_mfu_baseline(flops_per_token: int, device: Device, device_count: int = 1) -> MfuBaseline:
    """The baseline of a run on `device_count` devices of one kind."""
    peak_flops, name = find_peak_flops(device)
    return MfuBaseline(
        flops_per_token=flops_per_token,
        peak_flops=device_count * peak_flops,
        peak_name=f"{device_count} × {name}" if device_count > 1 else name,
    )


def compute_step_metrics(
    baseline: MfuBaseline, device: Device, *, tokens: int, seconds: float
) -> dict[str, float]:
    """Speed and memory metrics of a step in which all devices together trained on `tokens` in `seconds`."""
    speed = tokens / seconds if seconds else 0.0
    used_bytes, peak_bytes = memory_usage(device)
    return {
        "tokens_per_second": round(speed, 1),
        "mfu": round(baseline.mfu(speed), 4),
        "memory_bytes": used_bytes,
        "memory_peak_bytes": peak_bytes,
    }


def format_metrics(step: int, metrics: Mapping[str, float]) -> list[str]:
    """A step's metrics as short texts, the most important first: a narrow display omits the last ones."""
    texts = []
    if "loss" in metrics:
        texts.append(f"loss {metrics['loss']:.3f}")
    if "bits_per_byte" in metrics:
        texts.append(f"{metrics['bits_per_byte']:.3f} bits/byte")
    if "tokens_per_second" in metrics:
        texts.append(f"{metrics['tokens_per_second']:,.0f} tokens/s")
    if "mfu" in metrics:
        texts.append(f"MFU {100 * metrics['mfu']:.0f} %")
    if metrics.get("memory_peak_bytes"):
        texts.append(f"{metrics['memory_peak_bytes'] / 2**30:.1f} GiB")
    return [*texts, f"step {step:,}"]


def find_peak_flops(device: Device) -> tuple[float, str]:
    """A device's peak in FLOP/s and its source: a data sheet, else a measured matrix product."""
    if device.kind == "cuda" and device.dtype in {torch.bfloat16, torch.float16}:
        data_sheet = find_data_sheet_peak(device.name)
        if data_sheet is not None:
            return data_sheet
    return measure_peak(device), f"{device.name}, measured matrix product in {str(device.dtype)[6:]}"


def find_data_sheet_peak(name: str) -> tuple[float, str] | None:
    """The peak of a card in PEAKS whose words, including variant words, match the name exactly."""
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    for card, teraflops, source in PEAKS:
        card_words = set(card.split())
        if card_words <= words and words & VARIANTS == card_words & VARIANTS:
            return teraflops * 1e12, f"{name}, {teraflops:,.0f} TFLOP/s dense bfloat16 ({source})"
    return None


@cache
def measure_peak(device: Device) -> float:
    """FLOP/s of the fastest of many matrix products in the training type, measured once per process."""
    n = 1024 if device.kind == "cpu" else 4096
    left = torch.randn(n, n, device=device.torch_device, dtype=device.dtype)
    right = torch.randn(n, n, device=device.torch_device, dtype=device.dtype)
    left @ right
    device.synchronize()
    fastest, deadline = float("inf"), time.perf_counter() + PROBE_SECONDS
    while (started := time.perf_counter()) < deadline:
        for _ in range(4):
            left @ right
        device.synchronize()
        fastest = min(fastest, time.perf_counter() - started)
    return 4 * 2 * n**3 / fastest


def memory_usage(device: Device) -> tuple[int, int]:
    """Bytes in use now and at peak: of the device's own memory, or of this process on a CPU."""
    if device.kind == "cuda":
        return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    if device.kind == "mps":
        return torch.mps.current_allocated_memory(), torch.mps.driver_allocated_memory()
    return process_memory_usage()


def process_memory_usage() -> tuple[int, int]:
    """Resident bytes of this process, now and at peak; 0 on systems that do not report them."""
    try:
        import resource
    except ImportError:  # Windows
        return 0, 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    pages = Path("/proc/self/statm")
    now = int(pages.read_text().split()[1]) * resource.getpagesize() if pages.exists() else peak
    return now, max(now, peak)
