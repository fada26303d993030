"""A Transformer's weights in the type of generation, and the prefill of prompts.

Input: a Transformer, prompts as token ids. Output: keys and values of the prompts, logits of the token after each.
float32 on a CPU is batch-invariant: prompts are read one at a time and matmuls use blocks of one size, because a BLAS may
sum in a different order for another shape, and a completion must not depend on its batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from smalltale.model.loss import soft_cap
from smalltale.model.transformer import Block, Transformer, norm, rotate

PREFILL_BATCH = 16
INVARIANT_ROWS = 32
"""Rows of one batch-invariant matmul."""


class Decoder(Protocol):
    """A changing batch of rows with their KV cache."""

    def add(self, prompts: list[list[int]]) -> Tensor:
        """Append a row per prompt. Returns their logits (new rows, V), float32."""

    def step(self, ids: Tensor) -> Tensor:
        """Append one token per row, ids: (B,). Returns logits (B, V), float32."""

    def keep(self, rows: list[int]) -> None:
        """Keep only these rows, in this order."""


@dataclass(frozen=True, kw_only=True)
class LayerWeights:
    """One layer's matrices in the type of generation, and its two residual scalars."""

    qkv: Tensor
    out: Tensor
    up: Tensor
    down: Tensor
    residual_scale: float
    embedding_scale: float


@dataclass(frozen=True, kw_only=True)
class Prefill:
    """The model's state after n prompts: keys and values (L, n, H, T, D), logits (n, V)."""

    keys: Tensor
    values: Tensor
    logits: Tensor


class InferenceWeights:
    """A Transformer's weights as decoders use them."""

    def __init__(self, model: Transformer, dtype: torch.dtype) -> None:
        self.config, self.dtype = model.config, dtype
        self.device = model.embedding.weight.device
        self.batch_invariant = dtype == torch.float32 and self.device.type == "cpu"
        self.embedding = model.embedding.weight.detach()
        self.head_matrix = self.embedding.to(dtype)
        self.cosine, self.sine = model.rotation(0, model.config.context)
        self.layers = [self.layer_weights(block) for block in model.blocks if isinstance(block, Block)]

    def layer_weights(self, block: Block) -> LayerWeights:
        attention, feed_forward = block.attention, block.feed_forward
        matrices = (attention.qkv, attention.out, feed_forward.up, feed_forward.down)
        qkv, out, up, down = (linear.weight.detach().to(self.dtype) for linear in matrices)
        scalars = block.residual_scalars
        return LayerWeights(
            qkv=qkv,
            out=out,
            up=up,
            down=down,
            residual_scale=float(block.residual_scale.detach()) if scalars else 1.0,
            embedding_scale=float(block.embedding_scale.detach()) if scalars else 0.0,
        )

    def matmul(self, rows: Tensor, matrix: Tensor) -> Tensor:
        """rows (B, in) times matrixᵀ, matrix: (out, in)."""
        if not self.batch_invariant:
            return F.linear(rows, matrix)
        padded = F.pad(rows, (0, 0, 0, -len(rows) % INVARIANT_ROWS))
        blocks = torch.split(padded, INVARIANT_ROWS)
        return torch.cat([F.linear(block, matrix) for block in blocks])[: len(rows)]

    def head(self, features: Tensor) -> Tensor:
        """features (B, C) in the type of generation. Returns float32 logits (B, V)."""
        return soft_cap(self.matmul(features, self.head_matrix).float(), self.config.soft_cap)

    def embed(self, ids: Tensor) -> Tensor:
        """The residual stream before the first layer, float32: ids (...) -> (..., C)."""
        return norm(F.embedding(ids, self.embedding))

    def prefill(self, prompts: list[list[int]]) -> Prefill:
        """Read prompts of different lengths; keys and values after the end of a shorter one are never used."""
        size = 1 if self.batch_invariant else PREFILL_BATCH
        batches = [self.prefill_batch(prompts[i : i + size]) for i in range(0, len(prompts), size)]
        longest = max(batch.keys.shape[3] for batch in batches)
        keys, values = (
            torch.cat([F.pad(cache, (0, 0, 0, longest - cache.shape[3])) for cache in caches], dim=1)
            for caches in ([batch.keys for batch in batches], [batch.values for batch in batches])
        )
        return Prefill(keys=keys, values=values, logits=torch.cat([batch.logits for batch in batches]))

    def prefill_batch(self, prompts: list[list[int]]) -> Prefill:
        """Read prompts in one batch."""
        B, T = len(prompts), max(map(len, prompts))
        H, D = self.config.heads, self.config.head_width
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        padded = [prompt + [0] * (T - len(prompt)) for prompt in prompts]
        x = embedding = self.embed(torch.tensor(padded, device=self.device))
        rotation = (self.cosine[:T], self.sine[:T])
        keys, values = [], []
        for layer in self.layers:
            x = layer.residual_scale * x + layer.embedding_scale * embedding
            qkv = F.linear(norm(x).to(self.dtype), layer.qkv).view(B, T, 3, H, D)
            q, k, v = qkv.unbind(2)
            q, k = (rotate(norm(part.float()), rotation).to(self.dtype).transpose(1, 2) for part in (q, k))
            keys.append(k)
            values.append(v.transpose(1, 2))
            mixed = F.scaled_dot_product_attention(q, k, values[-1], is_causal=True)
            x = x + F.linear(mixed.transpose(1, 2).reshape(B, T, -1), layer.out)
            hidden = F.relu(F.linear(norm(x).to(self.dtype), layer.up)).square()
            x = x + F.linear(hidden, layer.down)
        last = norm(x[torch.arange(B, device=self.device), lengths - 1]).to(self.dtype)
        return Prefill(keys=torch.stack(keys), values=torch.stack(values), logits=self.head(last))
