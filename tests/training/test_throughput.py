"""Speed, share of the peak and memory, compared with numbers computed by hand."""

from __future__ import annotations

import pytest
import torch

from smalltale.model.transformer import ModelConfig
from smalltale.training.device import Device, choose_device
from smalltale.training.throughput import (
    MfuBaseline,
    compute_step_metrics,
    find_data_sheet_peak,
    find_peak_flops,
    format_metrics,
    make_mfu_baseline,
    memory_usage,
)


def gpu(name: str, dtype: torch.dtype = torch.bfloat16) -> Device:
    return Device(kind="cuda", name=name, dtype=dtype, compiles=True, memory_bytes=0)


def test_flops_per_token_are_six_times_weights_and_full_attention() -> None:
    shape = ModelConfig(vocabulary=1000, layers=2, width=64, heads=2)
    matrices = 2 * (4 * 64 * 64 + 2 * 64 * 256) + 1000 * 64
    assert shape.flops_per_token(128) == 6 * matrices + 6 * 2 * 128 * 64


def test_mfu_divides_by_the_peak_of_all_devices() -> None:
    baseline = make_mfu_baseline(1_000_000, gpu("NVIDIA H200"), device_count=2)
    assert baseline.peak_flops == 2 * 989e12
    assert baseline.mfu(989e6) == pytest.approx(0.5)
    assert baseline.peak_name == "2 × NVIDIA H200, 989 TFLOP/s dense bfloat16 (NVIDIA's data sheet)"


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
def test_a_listed_card_has_the_peak_of_its_data_sheet(name: str, teraflops: float) -> None:
    peak = find_data_sheet_peak(name)
    assert peak is not None
    assert peak[0] == teraflops * 1e12


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
def test_a_card_with_a_similar_name_does_not_match(name: str) -> None:
    assert find_data_sheet_peak(name) is None


def test_a_processor_is_measured_once() -> None:
    device = choose_device("cpu")
    peak, name = find_peak_flops(device)
    assert find_peak_flops(device) == (peak, name)
    assert 1e9 < peak < 1e15
    assert "measured matrix product" in name


def test_memory_in_use_grows_with_an_allocation() -> None:
    device = choose_device("cpu")
    before, _ = memory_usage(device)
    tensor = torch.ones(40_000_000)
    after, peak = memory_usage(device)
    assert after - before > 100_000_000
    assert peak >= after
    del tensor


def test_the_metrics_of_a_step() -> None:
    baseline = MfuBaseline(flops_per_token=10, peak_flops=10_000.0, peak_name="toy")
    metrics = compute_step_metrics(baseline, choose_device("cpu"), tokens=500, seconds=1.0)
    assert metrics["tokens_per_second"] == 500.0
    assert metrics["mfu"] == 0.5
    assert metrics["memory_bytes"] > 0
    texts = format_metrics(1234, {"loss": 2.0, "bits_per_byte": 0.8, **metrics})
    assert texts[:4] == ["loss 2.000", "0.800 bits/byte", "500 tokens/s", "MFU 50 %"]
    assert texts[-1] == "step 1,234"
