"""Soft-capped logits, and their cross-entropy computed in chunks so that all logits are never in memory at once.

Input: features (N, C), the tied embedding (V, C), targets (N,). Output: the summed loss in nats.
The gradient is computed in the forward pass, chunk by chunk, while a chunk's logits are in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from smalltale.model.kernels.dispatch import has_fused_matmul, matmul_softcap_exp

IGNORE_INDEX = -100
"""The target of a position that is not predicted."""


def soft_cap(logits: Tensor, cap: float) -> Tensor:
    """Limit logits to ± cap by x / sqrt(1 + (x / cap)²); a cap of 0 turns it off.

    Gemma 2 (arXiv 2408.00118) uses tanh; this curve has the same slope at 0 and the same limits at half the cost on a CPU.
    """
    return logits * torch.rsqrt(1 + (logits / cap).square()) if cap else logits


def loss_and_gradient(logits: Tensor, targets: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """logits: (n, V) before the cap. Returns the summed loss and its gradient (n, V) in the logits' type."""
    raw = logits.float()
    slope = torch.rsqrt(1 + (raw * (1 / cap)).square()) if cap else torch.ones_like(raw)
    capped = raw * slope
    shifted = capped if 0 < cap <= 60 else capped - capped.amax(-1, keepdim=True)
    exponential = torch.exp(shifted)
    total = exponential.sum(-1, keepdim=True)
    index = targets.clamp_min(0)[:, None]
    has_target = (targets != IGNORE_INDEX)[:, None].float()
    at_target = shifted.gather(1, index)
    loss = ((total.log() - at_target) * has_target).sum()
    inverse_total = has_target / total
    gradient = (exponential * inverse_total * slope**3).to(logits.dtype)
    # The target's entry is overwritten with a scatter: comparing every entry with the target costs a third more.
    target_gradient = (at_target.exp() * inverse_total - has_target) * slope.gather(1, index) ** 3
    return loss, gradient.scatter(1, index, target_gradient.to(logits.dtype))


def loss_from_sums(
    rows: Tensor, matrix: Tensor, targets: Tensor, sums: Tensor, cap: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The part of `loss_and_gradient` that follows `matmul_softcap_exp`; rows: (n, C), matrix: (V, C), sums: (n,).

    The gradient from `matmul_softcap_exp` is not divided by the softmax denominators. Returns the summed loss; the inverse
    denominators (n,), 0 for ignored targets; the gradient's target entries before that division (n, 1); and the rows times
    the inverse denominators (n, C).
    """
    raw = (rows.float() * matrix[targets.clamp_min(0)].float()).sum(-1)
    slope = torch.rsqrt(1 + (raw * (1 / cap)).square())
    has_target = targets != IGNORE_INDEX
    loss = torch.where(has_target, sums.log() - raw * slope, 0.0).sum()
    inverse_sums = has_target / sums
    target_gradient = ((raw * slope).exp() - sums) * slope**3
    return loss, inverse_sums, target_gradient[:, None].to(rows.dtype), scale_rows(rows, inverse_sums)


def scale_rows(rows: Tensor, factors: Tensor) -> Tensor:
    """rows: (n, C), each multiplied by its factor; factors: (n,) float32."""
    return (rows.float() * factors[:, None]).to(rows.dtype)


@cache
def compile_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled, on first use because the compiler is slow to import."""
    return torch.compile(function, dynamic=False)


class ChunkedCrossEntropy(torch.autograd.Function):
    """Σ −ln p(target) of soft-capped logits features @ weightᵀ."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, targets: Tensor, cap: float, chunk: int, compiled: bool
    ) -> Tensor:
        chunk_loss = compile_once(loss_and_gradient) if compiled else loss_and_gradient
        matrix = weight.to(features.dtype)
        d_features = torch.empty_like(features)
        d_weight = torch.zeros_like(weight)
        loss = torch.zeros((), device=features.device)
        for start in range(0, features.shape[0], chunk):
            rows = features[start : start + chunk]
            nats, gradient = chunk_loss(rows @ matrix.t(), targets[start : start + chunk], cap)
            loss += nats
            torch.mm(gradient, matrix, out=d_features[start : start + chunk])
            d_weight += gradient.t() @ rows
        ctx.save_for_backward(d_features, d_weight)
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        d_features, d_weight = ctx.saved_tensors
        return d_features * upstream[0], d_weight * upstream[0], None, None, None, None


class FusedCrossEntropy(torch.autograd.Function):
    """ChunkedCrossEntropy on a device with `matmul_softcap_exp`, which writes exponentials, once, instead of logits.

    The gradient's rows are not divided by their softmax denominators; the results of the matmuls that follow are instead.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, targets: Tensor, cap: float, chunk: int
    ) -> Tensor:
        chunk_loss = compile_once(loss_from_sums)
        matrix = weight.to(features.dtype)
        d_features = torch.empty_like(features)
        d_weight = torch.zeros_like(weight)
        loss = torch.zeros((), device=features.device)
        inverse_sums = features.new_empty(len(features), dtype=torch.float32)
        for start in range(0, len(features), chunk):
            span = slice(start, start + chunk)
            rows, chunk_targets = features[span], targets[span]
            gradient = features.new_empty(len(rows), len(weight))
            sums = matmul_softcap_exp(rows, matrix, cap, gradient)
            nats, inverse_sums[span], target_gradient, scaled_rows = chunk_loss(
                rows, matrix, chunk_targets, sums, cap
            )
            loss += nats
            gradient.scatter_(1, chunk_targets.clamp_min(0)[:, None], target_gradient)
            torch.mm(gradient, matrix, out=d_features[span])
            d_weight += gradient.t() @ scaled_rows
        ctx.save_for_backward(d_features, d_weight, inverse_sums)
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        d_features, d_weight, inverse_sums = ctx.saved_tensors
        d_features = compile_once(scale_rows)(d_features, inverse_sums * upstream[0])
        return d_features, d_weight * upstream[0], None, None, None


def chunked_cross_entropy(
    features: Tensor, weight: Tensor, targets: Tensor, *, cap: float, chunk: int, compiled: bool
) -> Tensor:
    """features: (N, C) in the compute type, weight: (V, C), targets: (N,). Returns the summed loss, float32 scalar."""
    loss: Tensor
    if 0 < cap <= 60 and compiled and has_fused_matmul(features.device, features.dtype, *weight.shape):
        loss = FusedCrossEntropy.apply(features, weight, targets, cap, chunk)  # type: ignore[no-untyped-call]
    else:
        loss = ChunkedCrossEntropy.apply(features, weight, targets, cap, chunk, compiled)  # type: ignore[no-untyped-call]
    return loss
