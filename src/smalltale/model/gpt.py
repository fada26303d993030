"""nanoGPT's model, so that its checkpoints can be counted, evaluated and sampled without conversion.

Input: token ids (B, T). Output: logits (B, T, V). Learned positions, layer norm, exact GELU, tied embedding, optional
biases. Parameters have nanoGPT's names. transformers' GPT-2 does not fit: it always has biases, which would be counted.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalltale.errors import FileProblem

GPT_ARCHITECTURE = "nanogpt"


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """The model's shape, by the keys of `model_args` in nanoGPT's checkpoints."""

    vocab_size: int
    block_size: int
    n_layer: int
    n_head: int
    n_embd: int
    bias: bool = False

    @classmethod
    def from_dict(cls, config: Any, path: Path) -> GPTConfig:
        """The shape in a config read from `path`; other keys are ignored. Raises FileProblem if one is missing or wrong."""
        try:
            shape = cls(**{field.name: config[field.name] for field in dataclasses.fields(cls)})
        except (KeyError, TypeError) as error:
            raise FileProblem(f"{path} describes no nanoGPT model ({error}); export it again") from error
        sizes = (shape.vocab_size, shape.block_size, shape.n_layer, shape.n_head, shape.n_embd)
        if not all(isinstance(size, int) and size > 0 for size in sizes) or shape.n_embd % shape.n_head:
            raise FileProblem(f"{path} has an impossible nanoGPT shape ({shape}); export it again")
        return shape


class GPTAttention(nn.Module):
    """Causal self-attention with one fused projection for queries, keys and values."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = (part.view(B, T, self.heads, -1).transpose(1, 2) for part in self.c_attn(x).split(C, dim=2))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.c_proj(mixed.transpose(1, 2).reshape(B, T, C))
        return out


class GPTFeedForward(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c_proj(F.gelu(self.c_fc(x)))
        return out


class GPTBlock(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attn = GPTAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = GPTFeedForward(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class GPT(nn.Module):
    """The complete model; the head shares the embedding's weight."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = nn.ModuleDict(
            OrderedDict(
                wte=nn.Embedding(config.vocab_size, config.n_embd),
                wpe=nn.Embedding(config.block_size, config.n_embd),
                h=nn.ModuleList(GPTBlock(config) for _ in range(config.n_layer)),
                ln_f=nn.LayerNorm(config.n_embd, bias=config.bias),
            )
        )
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight  # type: ignore[assignment]

    def forward(self, ids: Tensor) -> Tensor:
        """ids: (B, T) with T <= block_size. Returns logits (B, T, V)."""
        modules = self.transformer
        x = modules["wte"](ids) + modules["wpe"](torch.arange(ids.shape[1], device=ids.device))
        for block in modules["h"]:  # type: ignore[attr-defined]
            x = block(x)
        out: Tensor = self.lm_head(modules["ln_f"](x))
        return out
