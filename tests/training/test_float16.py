"""Training in float16, as on a T4; on the CPU it is slow but gives the same results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from smalltale.model.transformer import ModelConfig, Transformer
from smalltale.tokens.token_folder import read_tokens
from smalltale.training.batches import PackedRows
from smalltale.training.device import apple_has_bfloat16, choose_device, cuda_dtype
from smalltale.training.distributed import Distributed
from smalltale.training.gradients import FLOAT16_SCALE, GradientAccumulator
from smalltale.training.optim import OptimConfig, Optimizers


def train_small_model(
    prepared: Path, dtype: torch.dtype, loss_scale: float = 0.0
) -> tuple[list[float], GradientAccumulator]:
    """The losses of 12 steps of a small model."""
    torch.manual_seed(0)
    device = replace(choose_device("cpu"), dtype=dtype, compiles=False)
    model = Transformer(ModelConfig(vocabulary=300, layers=2, width=32, heads=2, context=64))
    optimizers = Optimizers(model, OptimConfig(), dtype=dtype)
    rows = PackedRows(read_tokens(prepared / "tokens"), 64, seed=0)
    gradients = GradientAccumulator(
        model, rows, device, Distributed(), head_rows=256, compiled=False, max_micro_tokens=512
    )
    gradients.fit_micro_batch(1024)
    optimizers.reset()
    gradients.loss_scale = loss_scale or gradients.loss_scale
    losses = []
    for step in range(12):
        losses.append(float(gradients.accumulate(step, 1024)))
        optimizers.step()
    return losses, gradients


def test_float16_learns_as_float32_does(prepared: Path) -> None:
    float32_losses, _ = train_small_model(prepared, torch.float32)
    float16_losses, gradients = train_small_model(prepared, torch.float16)
    assert float16_losses == pytest.approx(float32_losses, rel=2e-3)
    assert float16_losses[-1] < float16_losses[0] - 0.5
    assert gradients.loss_scale == FLOAT16_SCALE


def test_a_gradient_that_overflows_float16_is_recomputed_at_half_the_scale(prepared: Path) -> None:
    usual_losses, _ = train_small_model(prepared, torch.float16)
    losses, gradients = train_small_model(prepared, torch.float16, loss_scale=2.0**40)
    assert losses == pytest.approx(usual_losses, rel=2e-3)
    assert gradients.loss_scale < 2.0**40


def test_each_device_gets_its_fastest_number_type() -> None:
    assert [cuda_dtype(major) for major in (6, 7, 8, 9)] == [
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.bfloat16,
    ]
    chips = ("Apple M1", "Apple M2 Ultra", "Apple M3 Max", "Apple M10", "Intel(R) Core(TM) i7")
    assert [apple_has_bfloat16(chip) for chip in chips] == [False, False, True, True, False]
