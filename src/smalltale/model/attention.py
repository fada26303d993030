"""Causal attention within each document of a packed row, by the fastest method of the device.

Input: queries and keys with unit mean square (after QK-norm), values, each (B, T, H, D), and a mask of which key each
query may see, built once per batch. Output: (B, T, H, D). The methods agree up to rounding, not bit for bit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

QUERY_BLOCK = 128
"""Queries per block on a CPU; a block skips all keys after its last query."""


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """q, k, v: (B, T, H, D). mask: (B, 1, T, T), true where a query may see a key; None for one document per row."""
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    if mask is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
    if q.device.type == "cpu":
        return blockwise_attention(q, k, v, mask).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def document_mask(document_ids: Tensor) -> Tensor:
    """document_ids: (B, T) -> (B, 1, T, T), true where the key is in the query's document and not after the query."""
    T = document_ids.shape[1]
    causal = torch.ones(T, T, dtype=torch.bool, device=document_ids.device).tril()
    return ((document_ids[:, :, None] == document_ids[:, None, :]) & causal)[:, None]


def blockwise_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Softmax attention without subtracting the maximum; q, k, v: (B, H, T, D), mask: (B, 1, T, T).

    QK-norm bounds every score by sqrt(D), so exp() cannot overflow. Compiled for a CPU this is one pass over
    the scores, while PyTorch's kernel takes most of a small model's step. In blocks of queries, forward and backward
    of 512 tokens take 10.7 ms instead of 14.0, of 256 7.1 instead of 9.4 (one core, AVX512-BF16, 2026-11-26).
    """
    blocks, scale = [], 1 / math.sqrt(q.shape[-1])
    for start in range(0, q.shape[-2], QUERY_BLOCK):
        queries, keys = slice(start, start + QUERY_BLOCK), slice(0, start + QUERY_BLOCK)
        scores = (q[..., queries, :] @ k[..., keys, :].transpose(-1, -2)).float() * scale
        weights = (torch.exp(scores) * mask[..., queries, keys]).to(v.dtype)
        total = weights.float().sum(-1, keepdim=True)
        blocks.append((weights @ v[..., keys, :]) * (1 / total).to(v.dtype))
    return torch.cat(blocks, dim=-2)
