"""The model of nanoGPT, so that its checkpoints are counted, scored and generate as they are.

In: token ids (B, T). Out: logits (B, T, V). Learned positions, layer norm, exact GELU, tied embedding; biases or none.
Beware: weights are named as nanoGPT names them. A GPT-2 of transformers always has biases and would count them.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalltale.errors import FileProblem

GPT_ARCHITECTURE = "nanogpt"


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """The shape, in nanoGPT's words (its checkpoint's `model_args`)."""

    vocab_size: int
    block_size: int
    n_layer: int
    n_head: int
    n_embd: int
    bias: bool = False

    @property
    def context(self) -> int:
        return self.block_size

    @property
    def vocabulary(self) -> int:
        return self.vocab_size

    @classmethod
    def read(cls, table: Any, where: str) -> GPTConfig:
        """The shape in a table with more keys. Raises FileProblem where one is missing or not a number."""
        try:
            shape = cls(**{each.name: table[each.name] for each in dataclasses.fields(cls)})
        except (KeyError, TypeError) as error:
            raise FileProblem(
                f"{where} does not describe a nanoGPT model ({error}); export it anew"
            ) from error
        sizes = (shape.vocab_size, shape.block_size, shape.n_layer, shape.n_head, shape.n_embd)
        if not all(isinstance(each, int) and each > 0 for each in sizes) or shape.n_embd % shape.n_head:
            raise FileProblem(f"{where} gives a nanoGPT shape that cannot be ({shape}); export it anew")
        return shape


class Attention(nn.Module):
    """Causal self-attention over one fused projection."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = (each.view(B, T, self.heads, -1).transpose(1, 2) for each in self.c_attn(x).split(C, dim=2))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.c_proj(mixed.transpose(1, 2).reshape(B, T, C))
        return out


class FeedForward(nn.Module):
    """Two matrices with a GELU between them."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c_proj(F.gelu(self.c_fc(x)))
        return out


class Block(nn.Module):
    """One layer; the norms stand before."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = FeedForward(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class GPT(nn.Module):
    """The whole model; the head is the embedding's own weight."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = nn.ModuleDict(
            OrderedDict(
                wte=nn.Embedding(config.vocab_size, config.n_embd),
                wpe=nn.Embedding(config.block_size, config.n_embd),
                h=nn.ModuleList(Block(config) for _ in range(config.n_layer)),
                ln_f=nn.LayerNorm(config.n_embd, bias=config.bias),
            )
        )
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight  # type: ignore[assignment]

    def forward(self, ids: Tensor) -> Tensor:
        """ids: (B, T), T at most the context. Returns logits (B, T, V)."""
        part = self.transformer
        x = part["wte"](ids) + part["wpe"](torch.arange(ids.shape[1], device=ids.device))
        for block in part["h"]:  # type: ignore[attr-defined]
            x = block(x)
        out: Tensor = self.lm_head(part["ln_f"](x))
        return out
