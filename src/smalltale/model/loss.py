"""The decoder's end: soft-capped logits, and their cross-entropy without ever holding all of them.

In: features (N, C), the tied embedding (V, C), targets (N,). Out: the summed loss in nats.
Beware: the gradient is made in the forward pass, a chunk of rows at a time while its logits are in the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from smalltale.model.kernels.dispatch import exponential_product, has_fused_products

NO_TARGET = -100
"""The target of a position that is not to be predicted."""


def soft_cap(logits: Tensor, cap: float) -> Tensor:
    """Logits kept within ± cap by x / sqrt(1 + (x / cap)²); 0 turns it off.

    Gemma 2 (arXiv 2408.00118) uses a tanh; this curve has the same slope and limits at half the cost on a CPU.
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
    wanted = (targets != NO_TARGET)[:, None].float()
    at_target = shifted.gather(1, index)
    loss = ((total.log() - at_target) * wanted).sum()
    share = wanted / total
    gradient = (exponential * share * slope**3).to(logits.dtype)
    # The target's own entry is laid over the others: asking every entry whether it is the target costs a third more.
    hit = (at_target.exp() * share - wanted) * slope.gather(1, index) ** 3
    return loss, gradient.scatter(1, index, hit.to(logits.dtype))


def loss_of_sums(
    rows: Tensor, matrix: Tensor, targets: Tensor, sums: Tensor, cap: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What is left of `loss_and_gradient` after `exponential_product`; rows: (n, C), matrix: (V, C), sums: (n,).

    Returns the summed loss; by how much each row's gradient is too large, (n,); the targets' own entries of the gradient
    that is so much too large, (n, 1); and the rows times that much, (n, C).
    """
    raw = (rows.float() * matrix[targets.clamp_min(0)].float()).sum(-1)
    slope = torch.rsqrt(1 + (raw * (1 / cap)).square())
    wanted = targets != NO_TARGET
    loss = torch.where(wanted, sums.log() - raw * slope, 0.0).sum()
    share = wanted / sums
    hit = ((raw * slope).exp() - sums) * slope**3
    return loss, share, hit[:, None].to(rows.dtype), scaled(rows, share)


def scaled(rows: Tensor, shares: Tensor) -> Tensor:
    """rows: (n, C), each times its own of shares (n,) float32."""
    return (rows.float() * shares[:, None]).to(rows.dtype)


@cache
def compiled_form(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function as one compiled pass; made when first asked for, because the compiler is slow to import."""
    return torch.compile(function, dynamic=False)


class ChunkedCrossEntropy(torch.autograd.Function):
    """Σ −ln p(target) of soft-capped logits features @ weightᵀ."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, targets: Tensor, cap: float, chunk: int, compiled: bool
    ) -> Tensor:
        kernel = compiled_form(loss_and_gradient) if compiled else loss_and_gradient
        matrix = weight.to(features.dtype)
        d_features = torch.empty_like(features)
        d_weight = torch.zeros_like(weight)
        loss = torch.zeros((), device=features.device)
        for start in range(0, features.shape[0], chunk):
            rows = features[start : start + chunk]
            part, gradient = kernel(rows @ matrix.t(), targets[start : start + chunk], cap)
            loss += part
            torch.mm(gradient, matrix, out=d_features[start : start + chunk])
            d_weight += gradient.t() @ rows
        ctx.save_for_backward(d_features, d_weight)
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        d_features, d_weight = ctx.saved_tensors
        return d_features * upstream[0], d_weight * upstream[0], None, None, None, None


class ExponentialCrossEntropy(torch.autograd.Function):
    """The same where the device has `exponential_product`: not the logits but their exponentials are written, once.

    The gradient's rows stay too large by their sum of exponentials, and the results of the next products are put right.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, targets: Tensor, cap: float, chunk: int
    ) -> Tensor:
        settle = compiled_form(loss_of_sums)
        matrix = weight.to(features.dtype)
        d_features = torch.empty_like(features)
        d_weight = torch.zeros_like(weight)
        loss = torch.zeros((), device=features.device)
        shares = features.new_empty(len(features), dtype=torch.float32)
        for start in range(0, len(features), chunk):
            part = slice(start, start + chunk)
            rows, wanted = features[part], targets[part]
            gradient = features.new_empty(len(rows), len(weight))
            sums = exponential_product(rows, matrix, cap, gradient)
            nats, shares[part], hit, reduced = settle(rows, matrix, wanted, sums, cap)
            loss += nats
            gradient.scatter_(1, wanted.clamp_min(0)[:, None], hit)
            torch.mm(gradient, matrix, out=d_features[part])
            d_weight += gradient.t() @ reduced
        ctx.save_for_backward(d_features, d_weight, shares)
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        d_features, d_weight, shares = ctx.saved_tensors
        return (
            compiled_form(scaled)(d_features, shares * upstream[0]),
            d_weight * upstream[0],
            None,
            None,
            None,
        )


def chunked_cross_entropy(
    features: Tensor, weight: Tensor, targets: Tensor, *, cap: float, chunk: int, compiled: bool
) -> Tensor:
    """features: (N, C) in the compute type, weight: (V, C), targets: (N,). Returns the summed loss, float32 scalar."""
    loss: Tensor
    if 0 < cap <= 60 and compiled and has_fused_products(features.device, features.dtype, *weight.shape):
        loss = ExponentialCrossEntropy.apply(features, weight, targets, cap, chunk)  # type: ignore[no-untyped-call]
    else:
        loss = ChunkedCrossEntropy.apply(features, weight, targets, cap, chunk, compiled)  # type: ignore[no-untyped-call]
    return loss
