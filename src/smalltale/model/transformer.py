"""A decoder-only transformer for small storytellers.

In: token ids (B, T). Out: logits (B, T, V); head.py has the loss that never holds them all.
RoPE, RMS norm without gain, QK-norm, squared ReLU, tied embedding, zero-initialised output projections,
logit soft cap; each after its source named beside it.
Beware: rows may hold several stories; `story` limits attention to a story, and RoPE needs no restart there,
because it only sees differences of positions.
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
from smalltale.model.attention import attend, same_story
from smalltale.model.kernels.dispatch import FeedForwardProducts, has_fused_products, story_attention
from smalltale.model.loss import soft_cap

EPSILON = torch.finfo(torch.float32).eps
"""Added to the mean square in every norm, whatever type it is computed in."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a Transformer."""

    vocabulary: int = 4096
    """Rows of the tied embedding; the tokenizer's vocabulary."""
    layers: int = 6
    width: int = 256
    """Features of a token between the layers; a multiple of `heads`, an even number for each head."""
    heads: int = 4
    mlp_ratio: float = 4.0
    """Hidden features of the feed-forward part, as a multiple of the width."""
    context: int = 512
    """The longest row, in tokens."""
    rope_base: float = 10_000.0
    soft_cap: float = 15.0
    """Logits stay within ± this (Gemma 2, arXiv 2408.00118); 0 turns it off."""
    residual_scalars: bool = True
    """Learned scalars a layer for the residual stream and for the embedding fed in again."""

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
            raise RecipeError(
                f"model.mlp_ratio = {self.mlp_ratio} leaves no hidden feature; give a larger one"
            )

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def mlp_width(self) -> int:
        return round(self.width * self.mlp_ratio)

    def matrix_parameters(self) -> int:
        """Weights that take part in a matrix product for each token: all but the embedding's look-up."""
        layer = 4 * self.width**2 + 2 * self.width * self.mlp_width
        return self.layers * layer + self.vocabulary * self.width

    def flops_per_token(self, row_length: int) -> int:
        """Forward and backward, as docs/architecture.md defines MFU: 6 N + 6 L T d."""
        return 6 * self.matrix_parameters() + 6 * self.layers * row_length * self.width


class Linear(nn.Linear):
    """A product without bias in the type of its input; the weight stays in float32."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight.to(input.dtype))


class Attention(nn.Module):
    """Causal self-attention with normalised queries and keys (arXiv 2302.05442)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.head_width = config.heads, config.head_width
        self.qkv = Linear(config.width, 3 * config.width)
        self.out = Linear(config.width, config.width)

    def project(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """x: (B, T, C) -> queries, keys (normalised and rotated) and values, each (B, T, H, D)."""
        q, k, v = self.raw(x).unbind(2)
        return rotate(norm(q), rotation), rotate(norm(k), rotation), v

    def raw(self, x: Tensor) -> Tensor:
        """x: (B, T, C) -> queries, keys and values as (B, T, 3, H, D)."""
        return self.qkv(x).view(*x.shape[:2], 3, self.heads, self.head_width)  # type: ignore[no-any-return]

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], plan: Tensor | None) -> Tensor:
        """plan: what `attend` takes, or, where the device has `story_attention`, its int32 spans."""
        if plan is not None and plan.dtype == torch.int32:
            mixed, _, _ = story_attention(self.raw(x), *rotation, plan, EPSILON)
        else:
            mixed = attend(*self.project(x, rotation), plan)
        out: Tensor = self.out(mixed.reshape(x.shape))
        return out


class FeedForward(nn.Module):
    """Two matrices with a squared ReLU between them (Primer, arXiv 2109.08668)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = Linear(config.width, config.mlp_width)
        self.down = Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor
        if torch.is_grad_enabled() and has_fused_products(x.device, x.dtype, *self.up.weight.shape):
            up, down = (each.weight.to(x.dtype) for each in (self.up, self.down))
            out = FeedForwardProducts.apply(x.flatten(0, 1), up, down).view_as(x)  # type: ignore[no-untyped-call]
        else:
            out = self.down(SquaredReLU.apply(self.up(x)))  # type: ignore[no-untyped-call]
        return out


class SquaredReLU(torch.autograd.Function):
    """max(x, 0)², keeping its result alone for the backward pass, which the next product keeps anyway."""

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
    """One layer: attention, then feed-forward, each added to the residual stream."""

    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.drop = nn.Dropout(dropout)
        if config.residual_scalars:
            self.residual_scale = nn.Parameter(torch.ones(()))
            self.embedding_scale = nn.Parameter(torch.zeros(()))
        self.residual_scalars = config.residual_scalars

    def enter(self, x: Tensor, first: Tensor) -> Tensor:
        """The residual stream as this layer takes it: scaled, with the embedding `first` fed in again."""
        if not self.residual_scalars:
            return x
        return self.residual_scale * x + self.embedding_scale * first

    def forward(
        self, x: Tensor, first: Tensor, rotation: tuple[Tensor, Tensor], plan: Tensor | None
    ) -> Tensor:
        """x, first: (B, T, C). Returns the residual stream after this layer."""
        x = self.enter(x, first)
        x = x + self.drop(self.attention(norm(x), rotation, plan))
        x = x + self.drop(self.feed_forward(norm(x)))
        return x


class Transformer(nn.Module):
    """The whole model; `head` is the embedding's own weight, so the pair counts once.

    dropout: of what each layer adds to the stream, in training mode.
    """

    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config, self.drops = config, dropout > 0
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
        """Cosines and sines of positions start to end, each (T, D / 2), in float32."""
        return self.cosine[start:end], self.sine[start:end]  # type: ignore[index]

    def trunk(
        self,
        embedded: Tensor,
        plan: Tensor | None = None,
        layers: Sequence[Callable[..., Tensor]] | None = None,
    ) -> Tensor:
        """embedded: (B, T, C) rows of the embedding, in the type to compute in. Returns normalised features (B, T, C).

        `plan`: which tokens see which (model/attention.py), None for one story a row.
        `layers`: compiled forms of `blocks`, one each, to run in their place.
        """
        rotation = self.rotation(0, embedded.shape[1])
        x = first = norm(embedded)
        for block in layers or self.blocks:
            x = block(x, first, rotation, plan)
        return norm(x)

    def head(self, features: Tensor) -> Tensor:
        """features: (..., C) -> soft-capped logits (..., V) in float32."""
        weight = self.embedding.weight.to(features.dtype)
        return soft_cap(F.linear(features, weight).float(), self.config.soft_cap)

    def forward(self, ids: Tensor, story: Tensor | None = None) -> Tensor:
        """ids, story: (B, T); story numbers the stories of a row. Returns float32 logits (B, T, V)."""
        if ids.shape[1] > self.config.context:
            raise ValueError(
                f"a row of {ids.shape[1]} tokens is longer than the context of {self.config.context}"
            )
        return self.head(self.trunk(self.embedding(ids), None if story is None else same_story(story)))


def norm(x: Tensor) -> Tensor:
    """RMS norm over the last axis, without gain (arXiv 1910.07467)."""
    return F.rms_norm(x, (x.shape[-1],), eps=EPSILON)


def rotation_table(length: int, head_width: int, base: float) -> tuple[Tensor, Tensor]:
    """RoPE's cosines and sines (arXiv 2104.09864), each (length, head_width / 2)."""
    frequency = base ** -(torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)
    angle = torch.outer(torch.arange(length, dtype=torch.float32), frequency)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """x: (B, T, H, D); rotation: (T, D / 2) or (B, T, D / 2) each, float32. Halves of a head are the two coordinates."""
    cosine, sine = (part[..., None, :] for part in rotation)
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1).to(x.dtype)
