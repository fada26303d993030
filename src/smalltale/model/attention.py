"""Causal attention inside each story, by the fastest way the device has.

In: queries, keys (both of unit mean square, as QK-norm leaves them), values (B, T, H, D), and the story number of
each token. Out: mixed values (B, T, H, D).
Beware: the ways agree to rounding, not to the bit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def attend(q: Tensor, k: Tensor, v: Tensor, story: Tensor | None) -> Tensor:
    """q, k, v: (B, T, H, D); story: (B, T) numbers, or None for one story a row."""
    q, k, v = (each.transpose(1, 2) for each in (q, k, v))
    if story is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
    allowed = same_story(story)
    if q.device.type == "cpu":
        return plain_attention(q, k, v, allowed).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed).transpose(1, 2)


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
