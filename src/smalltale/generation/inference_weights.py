"""A Transformer's weights in the number type of generation, and the reading of prompts.

In: a Transformer, prompts as token ids. Out: keys and values of the prompts, logits of the token after each.
Beware: in float32 prompts are read one by one and products are made of rows in blocks of one size, because
a matrix library may sum in another order for another shape, and a completion must not depend on its batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from smalltale.model.loss import soft_cap
from smalltale.model.transformer import Block, Transformer, norm, rotate

PROMPTS_AT_ONCE = 16
EXACT_ROWS = 32
"""Rows of one float32 product on a CPU."""


class Decoder(Protocol):
    """A changing batch of rows, each with its keys and values kept."""

    def add(self, prompts: list[list[int]]) -> Tensor:
        """Take rows in behind those already there. Returns their logits (new rows, V), float32."""

    def step(self, ids: Tensor) -> Tensor:
        """Take one token a row, ids: (B,). Returns logits (B, V), float32."""

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these, in this order."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer's matrices in the type of generation, and its two scalars."""

    qkv: Tensor
    out: Tensor
    up: Tensor
    down: Tensor
    scale: float
    back: float


@dataclass(frozen=True, kw_only=True)
class Read:
    """Prompts that were read: keys and values (L, n, H, T, D), logits (n, V)."""

    keys: Tensor
    values: Tensor
    logits: Tensor


class Weights:
    """What a decoder multiplies by."""

    def __init__(self, model: Transformer, dtype: torch.dtype) -> None:
        self.config, self.dtype = model.config, dtype
        self.device = model.embedding.weight.device
        self.exact = dtype == torch.float32 and self.device.type == "cpu"
        self.embedding = model.embedding.weight.detach()
        self.head_matrix = self.embedding.to(dtype)
        self.cosine, self.sine = model.rotation(0, model.config.context)
        self.layers = [self.layer(block) for block in model.blocks if isinstance(block, Block)]

    def layer(self, block: Block) -> Layer:
        attention, feed_forward = block.attention, block.feed_forward
        matrices = (attention.qkv, attention.out, feed_forward.up, feed_forward.down)
        qkv, out, up, down = (each.weight.detach().to(self.dtype) for each in matrices)
        scalars = block.residual_scalars
        return Layer(
            qkv=qkv,
            out=out,
            up=up,
            down=down,
            scale=float(block.residual_scale.detach()) if scalars else 1.0,
            back=float(block.embedding_scale.detach()) if scalars else 0.0,
        )

    def product(self, rows: Tensor, matrix: Tensor) -> Tensor:
        """rows (B, in) times matrix (out, in), transposed."""
        if not self.exact:
            return F.linear(rows, matrix)
        padded = F.pad(rows, (0, 0, 0, -len(rows) % EXACT_ROWS))
        return torch.cat([F.linear(part, matrix) for part in torch.split(padded, EXACT_ROWS)])[: len(rows)]

    def head(self, features: Tensor) -> Tensor:
        """features (B, C) in the type of generation. Returns float32 logits (B, V)."""
        return soft_cap(self.product(features, self.head_matrix).float(), self.config.soft_cap)

    def first(self, ids: Tensor) -> Tensor:
        """The residual stream's beginning, float32: ids (...) -> (..., C)."""
        return norm(F.embedding(ids, self.embedding))

    def read(self, prompts: list[list[int]]) -> Read:
        """Read prompts of different lengths; what stands behind a shorter one is never looked at."""
        at_once = 1 if self.exact else PROMPTS_AT_ONCE
        parts = [self.read_together(prompts[i : i + at_once]) for i in range(0, len(prompts), at_once)]
        longest = max(part.keys.shape[3] for part in parts)
        keys, values = (
            torch.cat([F.pad(kept, (0, 0, 0, longest - kept.shape[3])) for kept in each], dim=1)
            for each in ([part.keys for part in parts], [part.values for part in parts])
        )
        return Read(keys=keys, values=values, logits=torch.cat([part.logits for part in parts]))

    def read_together(self, prompts: list[list[int]]) -> Read:
        """Read prompts in one batch."""
        B, T = len(prompts), max(map(len, prompts))
        H, D = self.config.heads, self.config.head_width
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        padded = [prompt + [0] * (T - len(prompt)) for prompt in prompts]
        x = first = self.first(torch.tensor(padded, device=self.device))
        rotation = (self.cosine[:T], self.sine[:T])
        keys, values = [], []
        for layer in self.layers:
            x = layer.scale * x + layer.back * first
            qkv = F.linear(norm(x).to(self.dtype), layer.qkv).view(B, T, 3, H, D)
            q, k, v = qkv.unbind(2)
            q, k = (rotate(norm(each.float()), rotation).to(self.dtype).transpose(1, 2) for each in (q, k))
            keys.append(k)
            values.append(v.transpose(1, 2))
            mixed = F.scaled_dot_product_attention(q, k, values[-1], is_causal=True)
            x = x + F.linear(mixed.transpose(1, 2).reshape(B, T, -1), layer.out)
            hidden = F.relu(F.linear(norm(x).to(self.dtype), layer.up)).square()
            x = x + F.linear(hidden, layer.down)
        last = norm(x[torch.arange(B, device=self.device), lengths - 1]).to(self.dtype)
        return Read(keys=torch.stack(keys), values=torch.stack(values), logits=self.head(last))
