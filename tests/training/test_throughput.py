"""Speed, share of the peak and memory, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from smalltale.model.transformer import ModelConfig
from smalltale.training.device import Device, choose_device
from smalltale.training.throughput import (
    Yardstick,
    listed_peak,
    memory,
    peak_flops,
    step_figures,
    told,
    yardstick,
)


def card(name: str, dtype: torch.dtype = torch.bfloat16) -> Device:
    return Device(kind="cuda", name=name, dtype=dtype, compiles=True, memory_bytes=0)


def test_the_work_of_a_token_is_six_times_weights_and_full_attention() -> None:
    shape = ModelConfig(vocabulary=1000, layers=2, width=64, heads=2)
    matrices = 2 * (4 * 64 * 64 + 2 * 64 * 256) + 1000 * 64
    assert shape.flops_per_token(128) == 6 * matrices + 6 * 2 * 128 * 64


def test_mfu_is_the_work_done_over_all_devices_peak() -> None:
    two = yardstick(1_000_000, card("NVIDIA H200"), devices=2)
    assert two.peak == 2 * 989e12
    assert two.mfu(989e6) == pytest.approx(0.5)
    assert two.peak_name == "2 × NVIDIA H200, 989 TFLOP/s dense bfloat16 (NVIDIA's data sheet)"


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA GeForce RTX 4070 Ti", 80),
        ("NVIDIA RTX A6000", 155),
    ],
)
def test_a_known_card_has_its_data_sheets_peak(name: str, teraflops: float) -> None:
    listed = listed_peak(name)
    assert listed is not None
    assert listed[0] == teraflops * 1e12


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4070 SUPER",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA GeForce RTX 3080 Ti",
        "Tesla T4",
        "NVIDIA A10G",
    ],
)
def test_a_card_of_a_like_name_is_not_taken_for_another(name: str) -> None:
    assert listed_peak(name) is None


def test_a_processor_is_measured_once() -> None:
    device = choose_device("cpu")
    peak, name = peak_flops(device)
    assert peak_flops(device) == (peak, name)
    assert 1e9 < peak < 1e15
    assert "measured matrix product" in name


def test_memory_in_use_grows_with_what_is_held() -> None:
    device = choose_device("cpu")
    before, _ = memory(device)
    held = torch.ones(40_000_000)
    after, peak = memory(device)
    assert after - before > 100_000_000
    assert peak >= after
    del held


def test_the_figures_of_a_step() -> None:
    stick = Yardstick(flops_per_token=10, peak=10_000.0, peak_name="toy")
    figures = step_figures(stick, choose_device("cpu"), tokens=500, seconds=1.0)
    assert figures["tokens_per_second"] == 500.0
    assert figures["mfu"] == 0.5
    assert figures["memory_bytes"] > 0
    words = told(1234, {"loss": 2.0, "bits_per_byte": 0.8, **figures})
    assert words[:4] == ["loss 2.000", "0.800 bits/byte", "500 tokens/s", "MFU 50 %"]
    assert words[-1] == "step 1,234"
