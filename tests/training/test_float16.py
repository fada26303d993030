"""float16, as a T4 multiplies: run here on the processor, where it is slow and the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from smalltale.model.transformer import ModelConfig, Transformer
from smalltale.tokens.shards import read_tokens
from smalltale.training.batches import Rows
from smalltale.training.device import apple_multiplies_bfloat16, card_type, choose_device
from smalltale.training.distributed import Ranks
from smalltale.training.gradients import FLOAT16_SCALE, Gradients
from smalltale.training.optim import OptimConfig, Optimizers


def trained(prepared: Path, dtype: torch.dtype, first_scale: float = 0.0) -> tuple[list[float], Gradients]:
    """The losses of 12 steps of a small model."""
    torch.manual_seed(0)
    device = replace(choose_device("cpu"), dtype=dtype, compiles=False)
    model = Transformer(ModelConfig(vocabulary=300, layers=2, width=32, heads=2, context=64))
    optimizers = Optimizers(model, OptimConfig(), dtype=dtype)
    rows = Rows.from_tokens(read_tokens(prepared / "tokens"), 64, seed=0)
    gradients = Gradients(model, rows, device, Ranks(), head_rows=256, compiled=False, most=512)
    gradients.fit(1024)
    optimizers.reset()
    gradients.loss_scale = first_scale or gradients.loss_scale
    losses = []
    for step in range(12):
        losses.append(float(gradients.of_step(step, 1024)))
        optimizers.step()
    return losses, gradients


def test_float16_learns_what_float32_learns(prepared: Path) -> None:
    exact, _ = trained(prepared, torch.float32)
    half, gradients = trained(prepared, torch.float16)
    assert half == pytest.approx(exact, rel=2e-3)
    assert half[-1] < half[0] - 0.5
    assert gradients.loss_scale == FLOAT16_SCALE


def test_a_gradient_that_overflows_float16_is_made_again_at_half_the_scale(prepared: Path) -> None:
    usual, _ = trained(prepared, torch.float16)
    after, gradients = trained(prepared, torch.float16, first_scale=2.0**40)
    assert after == pytest.approx(usual, rel=2e-3)
    assert gradients.loss_scale < 2.0**40


def test_each_device_gets_the_type_it_multiplies_in() -> None:
    assert [card_type(major) for major in (6, 7, 8, 9)] == [
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.bfloat16,
    ]
    chips = ("Apple M1", "Apple M2 Ultra", "Apple M3 Max", "Apple M10", "Intel(R) Core(TM) i7")
    assert [apple_multiplies_bfloat16(each) for each in chips] == [False, False, True, True, False]
