"""Causal attention inside each story, by the fastest way the device has.

In: queries, keys (both of unit mean square, as QK-norm leaves them), values (B, T, H, D), and a plan of which token
sees which, made once a batch. Out: mixed values (B, T, H, D).
Beware: the ways agree to rounding, not to the bit.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn

CAUSAL: dict[str, Any] = (
    {"is_causal": True}
    if "is_causal" in inspect.signature(varlen_attn).parameters
    else {"window_size": (-1, 0)}
)
"""How this torch asks for causal attention: torch 2.10 has is_causal, later ones a window."""


def attend(q: Tensor, k: Tensor, v: Tensor, plan: Tensor | None) -> Tensor:
    """q, k, v: (B, T, H, D). plan: None for one story a row; a mask (B, 1, T, T), true where a query may see a key;
    or, where `has_varlen`, int32 (n + 1): the bounds of n pieces, some empty, laid end to end over the B·T tokens.
    """
    if plan is not None and plan.dtype == torch.int32:
        return varlen_attention(q, k, v, plan)
    q, k, v = (each.transpose(1, 2) for each in (q, k, v))
    if plan is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
    if q.device.type == "cpu":
        return plain_attention(q, k, v, plan).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=plan).transpose(1, 2)


def same_story(story: Tensor) -> Tensor:
    """story: (B, T) -> (B, 1, T, T), true where a query may see a key: not later, and of its own story."""
    T = story.shape[1]
    causal = torch.ones(T, T, dtype=torch.bool, device=story.device).tril()
    return ((story[:, :, None] == story[:, None, :]) & causal)[:, None]


def plain_attention(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    """Softmax attention without the usual pass for the maximum; q, k, v: (B, H, T, D), allowed: (B, 1, T, T).

    QK-norm bounds every score by sqrt(D), so exp() cannot overflow. Compiled for a CPU this is one pass over
    the scores, where the library's kernel spends most of a small model's step.
    """
    scores = (q @ k.transpose(-1, -2)).float() * (1 / math.sqrt(q.shape[-1]))
    weights = (torch.exp(scores) * allowed).to(v.dtype)
    total = weights.float().sum(-1, keepdim=True)
    return (weights @ v) * (1 / total).to(v.dtype)


def varlen_attention(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor) -> Tensor:
    """Flash attention over stories laid end to end; nothing is computed across them."""
    B, T, H, D = q.shape
    q, k, v = (each.reshape(B * T, H, D).to(v.dtype) for each in (q, k, v))
    mixed: Any = varlen_attn(q, k, v, bounds, bounds, T, T, **CAUSAL)
    return mixed.view(B, T, H, D)  # type: ignore[no-any-return]


def has_varlen(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the device has flash attention for stories of different lengths, in this type."""
    if device.type != "cuda" or dtype not in {torch.bfloat16, torch.float16}:
        return False
    return torch.cuda.get_device_capability(device)[0] >= 8
