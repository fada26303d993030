"""A decoder-only transformer for small story models.

Input: token ids (B, T). Output: logits (B, T, V); loss.py computes the loss without holding all logits.
RoPE, RMS norm without gain, QK-norm, squared ReLU, tied embedding, zero-initialised output projections,
logit soft cap; the source of each is cited where it is implemented.
A row may hold several documents (stories): `document_ids` limits attention to one document. RoPE positions are not reset
at its start, because RoPE depends on differences of positions only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalltale.errors import RecipeError
from smalltale.model.attention import attend, document_mask
from smalltale.model.kernels.dispatch import FusedFeedForward, document_attention, has_fused_matmul
from smalltale.model.loss import soft_cap

EPSILON = torch.finfo(torch.float32).eps
"""Added to the mean square in every norm, in any compute type."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a Transformer."""

    vocabulary: int = 4096
    """Rows of the tied embedding: the tokenizer's vocabulary size."""
    layers: int = 6
    width: int = 256
    """Features per token between the layers; a multiple of `heads`, with an even number per head."""
    heads: int = 4
    mlp_ratio: float = 4.0
    """Hidden features of the feed-forward network, as a multiple of the width."""
    context: int = 512
    """The longest row, in tokens."""
    rope_base: float = 10_000.0
    soft_cap: float = 15.0
    """Limit of the logits' absolute value (Gemma 2, arXiv 2408.00118); 0 turns it off."""
    residual_scalars: bool = True
    """Two learned scalars per layer: weights of the residual stream and of the embedding added to it again."""

    def __post_init__(self) -> None:
        for name in ("vocabulary", "layers", "width", "heads", "context"):
            if getattr(self, name) < 1:
                raise RecipeError(f"model.{name} = {getattr(self, name)} must be at least 1")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise RecipeError(
                f"model.width = {self.width} does not divide into {self.heads} heads of an even width; "
                f"try a width of {math.ceil(self.width / (2 * self.heads)) * 2 * self.heads}"
            )
        if self.mlp_width < 1:
            raise RecipeError(f"model.mlp_ratio = {self.mlp_ratio} leaves no hidden feature; increase it")

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def mlp_width(self) -> int:
        return round(self.width * self.mlp_ratio)

    def matrix_parameters(self) -> int:
        """Weights multiplied once per token: all matrices and the head, without the embedding lookup."""
        layer = 4 * self.width**2 + 2 * self.width * self.mlp_width
        return self.layers * layer + self.vocabulary * self.width

    def flops_per_token(self, row_length: int) -> int:
        """FLOPs of forward and backward, as in the definition of MFU in docs/architecture.md: 6 N + 6 L T d."""
        return 6 * self.matrix_parameters() + 6 * self.layers * row_length * self.width


class Linear(nn.Linear):
    """A linear layer without bias that computes in its input's type; the weight stays in float32."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight.to(input.dtype))


class Attention(nn.Module):
    """Causal self-attention with QK-norm (arXiv 2302.05442)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.head_width = config.heads, config.head_width
        self.qkv = Linear(config.width, 3 * config.width)
        self.out = Linear(config.width, config.width)

    def project(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """x: (B, T, C) -> queries, keys (normalised and rotated) and values, each (B, T, H, D)."""
        q, k, v = self.project_raw(x).unbind(2)
        return rotate(norm(q), rotation), rotate(norm(k), rotation), v

    def project_raw(self, x: Tensor) -> Tensor:
        """x: (B, T, C) -> queries, keys and values as (B, T, 3, H, D)."""
        return self.qkv(x).view(*x.shape[:2], 3, self.heads, self.head_width)  # type: ignore[no-any-return]

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask_or_spans: Tensor | None) -> Tensor:
        """mask_or_spans: the mask for `attend`, or int32 spans for `document_attention` on a device that has it."""
        if mask_or_spans is not None and mask_or_spans.dtype == torch.int32:
            mixed, _, _ = document_attention(self.project_raw(x), *rotation, mask_or_spans, EPSILON)
        else:
            mixed = attend(*self.project(x, rotation), mask_or_spans)
        out: Tensor = self.out(mixed.reshape(x.shape))
        return out


class FeedForward(nn.Module):
    """Two linear layers with a squared ReLU between them (Primer, arXiv 2109.08668)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = Linear(config.width, config.mlp_width)
        self.down = Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor
        if torch.is_grad_enabled() and has_fused_matmul(x.device, x.dtype, *self.up.weight.shape):
            up, down = (linear.weight.to(x.dtype) for linear in (self.up, self.down))
            out = FusedFeedForward.apply(x.flatten(0, 1), up, down).view_as(x)  # type: ignore[no-untyped-call]
        else:
            out = self.down(SquaredReLU.apply(self.up(x)))  # type: ignore[no-untyped-call]
        return out


class SquaredReLU(torch.autograd.Function):
    """max(x, 0)². Saves only its result for the backward pass; the next matmul saves that tensor anyway."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        square = F.relu(x).square()
        ctx.save_for_backward(square)
        return square

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        square: Tensor = ctx.saved_tensors[0]
        return 2 * square.sqrt() * upstream[0]


class Block(nn.Module):
    """A transformer block: attention, then feed-forward, each added to the residual stream."""

    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.drop = nn.Dropout(dropout)
        if config.residual_scalars:
            self.residual_scale = nn.Parameter(torch.ones(()))
            self.embedding_scale = nn.Parameter(torch.zeros(()))
        self.residual_scalars = config.residual_scalars

    def mix_embedding(self, x: Tensor, embedding: Tensor) -> Tensor:
        """The residual stream at this block's input: scaled, with the scaled embedding added to it."""
        if not self.residual_scalars:
            return x
        return self.residual_scale * x + self.embedding_scale * embedding

    def forward(
        self, x: Tensor, embedding: Tensor, rotation: tuple[Tensor, Tensor], mask_or_spans: Tensor | None
    ) -> Tensor:
        """x: the residual stream (B, T, C); embedding: its value before the first block. Returns the new residual stream."""
        x = self.mix_embedding(x, embedding)
        x = x + self.drop(self.attention(norm(x), rotation, mask_or_spans))
        x = x + self.drop(self.feed_forward(norm(x)))
        return x


class Transformer(nn.Module):
    """The complete model; `head` shares the embedding's weight, so the pair counts once.

    dropout: probability for the outputs of attention and feed-forward, in training mode.
    """

    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config, self.has_dropout = config, dropout > 0
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.blocks = nn.ModuleList(Block(config, dropout) for _ in range(config.layers))
        cosine, sine = rotation_table(config.context, config.head_width, config.rope_base)
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Small embedding, uniform input matrices of unit gain, zero output matrices (muP-like)."""
        nn.init.normal_(self.embedding.weight, std=0.005)
        bound = math.sqrt(3.0 / self.config.width)
        for block in self.blocks:
            assert isinstance(block, Block)
            nn.init.uniform_(block.attention.qkv.weight, -bound, bound)
            nn.init.uniform_(block.feed_forward.up.weight, -bound, bound)
            nn.init.zeros_(block.attention.out.weight)
            nn.init.zeros_(block.feed_forward.down.weight)

    def rotation(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        """RoPE cosines and sines of positions `start` to `end`, each (T, D / 2), in float32."""
        return self.cosine[start:end], self.sine[start:end]  # type: ignore[index]

    def trunk(
        self,
        embedded: Tensor,
        mask_or_spans: Tensor | None = None,
        compiled_blocks: Sequence[Callable[..., Tensor]] | None = None,
    ) -> Tensor:
        """embedded: (B, T, C) rows of the embedding, in the compute type. Returns normalised features (B, T, C).

        `mask_or_spans`: which tokens each token sees (see Attention), None for one document per row.
        `compiled_blocks`: replaces `blocks`.
        """
        rotation = self.rotation(0, embedded.shape[1])
        x = embedding = norm(embedded)
        for block in compiled_blocks or self.blocks:
            x = block(x, embedding, rotation, mask_or_spans)
        return norm(x)

    def head(self, features: Tensor) -> Tensor:
        """features: (..., C) -> soft-capped logits (..., V) in float32."""
        weight = self.embedding.weight.to(features.dtype)
        return soft_cap(F.linear(features, weight).float(), self.config.soft_cap)

    def forward(self, ids: Tensor, document_ids: Tensor | None = None) -> Tensor:
        """ids, document_ids: (B, T); document_ids number the documents of a row. Returns float32 logits (B, T, V)."""
        length = ids.shape[1]
        if length > self.config.context:
            raise ValueError(f"a row of {length} tokens is longer than the context of {self.config.context}")
        mask = None if document_ids is None else document_mask(document_ids)
        return self.head(self.trunk(self.embedding(ids), mask))


def norm(x: Tensor) -> Tensor:
    """RMS norm over the last dimension, without gain (arXiv 1910.07467)."""
    return F.rms_norm(x, (x.shape[-1],), eps=EPSILON)


def rotation_table(length: int, head_width: int, base: float) -> tuple[Tensor, Tensor]:
    """RoPE's cosines and sines (arXiv 2104.09864), each (length, head_width / 2)."""
    frequency = base ** -(torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)
    angle = torch.outer(torch.arange(length, dtype=torch.float32), frequency)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Apply RoPE, pairing the halves of each head; x: (B, T, H, D), rotation: (T, D / 2) or (B, T, D / 2) each, float32."""
    cosine, sine = (part[..., None, :] for part in rotation)
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1).to(x.dtype)
