"""Choice of device and number type; the GPUs here are simulated."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from smalltale.errors import SmalltaleError
from smalltale.model.kernels.dispatch import has_document_attention
from smalltale.training.device import choose_device


def simulate_gpus(patch: pytest.MonkeyPatch, name: str, major: int, count: int = 1) -> None:
    properties = SimpleNamespace(name=name, major=major, minor=0, total_memory=16 * 2**30)
    patch.setattr(torch.cuda, "is_available", lambda: True)
    patch.setattr(torch.cuda, "device_count", lambda: count)
    patch.setattr(torch.cuda, "get_device_properties", lambda number: properties)
    patch.setattr(torch.cuda, "get_device_capability", lambda device: (major, 0))


@pytest.mark.parametrize(
    ("name", "major", "dtype", "compiles"),
    [
        ("NVIDIA H200", 9, torch.bfloat16, True),
        ("Tesla T4", 7, torch.float16, True),
        ("NVIDIA GeForce GTX 1080", 6, torch.float32, False),
    ],
)
def test_a_gpu_without_bfloat16_trains_in_the_type_it_has(
    monkeypatch: pytest.MonkeyPatch, name: str, major: int, dtype: torch.dtype, compiles: bool
) -> None:
    simulate_gpus(monkeypatch, name, major)
    monkeypatch.setattr("smalltale.training.device.can_compile", lambda: True)
    device = choose_device("auto")
    assert (device.kind, device.name, device.dtype, device.compiles) == ("cuda", name, dtype, compiles)
    if major < 8:
        assert not has_document_attention(torch.device("cuda"), dtype, 64)


def test_more_ranks_than_gpus_is_reported_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    simulate_gpus(monkeypatch, "NVIDIA H200", 9, count=2)
    assert choose_device("auto", 1).kind == "cuda"
    with pytest.raises(SmalltaleError, match="no GPU 2, this machine has 2"):
        choose_device("auto", 2)


def test_a_requested_device_that_is_missing_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SmalltaleError, match="no cuda device"):
        choose_device("cuda")
    with pytest.raises(SmalltaleError, match="unknown device 'tpu'"):
        choose_device("tpu")
