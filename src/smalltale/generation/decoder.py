"""One token at a time, with keys and values kept.

In: a Transformer and prompts of different lengths. Out: the logits of each row's next token.
Beware: rows stand left-aligned, each at its own position; `keep` drops rows that are finished.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from smalltale.model.transformer import Block, Transformer, norm


class Decoder:
    """A batch of rows being decoded."""

    def __init__(self, model: Transformer, prompts: list[list[int]], max_tokens: int) -> None:
        self.model = model
        config = model.config
        device = model.embedding.weight.device
        self.length = min(config.context, max(map(len, prompts)) + max_tokens)
        self.positions = torch.tensor([len(prompt) for prompt in prompts], device=device)
        longest = max(map(len, prompts))
        self.prompts = torch.tensor(
            [prompt + [0] * (longest - len(prompt)) for prompt in prompts], device=device
        )
        shape = (config.layers, len(prompts), config.heads, self.length, config.head_width)
        self.keys = torch.zeros(shape, device=device)
        self.values = torch.zeros(shape, device=device)

    def start(self) -> Tensor:
        """Read the prompts. Returns logits (B, V)."""
        model, (B, T) = self.model, self.prompts.shape
        rotation = model.rotation(0, T)
        x = first = norm(model.embedding(self.prompts))
        for layer, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            x = block.enter(x, first)
            q, k, v = block.attention.project(norm(x), rotation)
            self.keys[layer, :, :, :T], self.values[layer, :, :, :T] = k.transpose(1, 2), v.transpose(1, 2)
            mixed = torch.nn.functional.scaled_dot_product_attention(
                *(each.transpose(1, 2) for each in (q, k, v)), is_causal=True
            )
            x = x + block.attention.out(mixed.transpose(1, 2).reshape(B, T, -1))
            x = x + block.feed_forward(norm(x))
        last = x[torch.arange(B, device=x.device), self.positions - 1]
        return model.head(norm(last))

    def step(self, ids: Tensor) -> Tensor:
        """Take one token a row, ids: (B,). Returns logits (B, V)."""
        model, B = self.model, len(ids)
        cosine, sine = model.rotation(0, self.length)
        rotation = (cosine[self.positions][:, None], sine[self.positions][:, None])
        reach = int(self.positions.max()) + 1
        seen = torch.arange(reach, device=ids.device)[None] <= self.positions[:, None]
        rows = torch.arange(B, device=ids.device)
        x = first = norm(model.embedding(ids[:, None]))
        for layer, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            x = block.enter(x, first)
            q, k, v = block.attention.project(norm(x), rotation)
            self.keys[layer, rows, :, self.positions] = k[:, 0]
            self.values[layer, rows, :, self.positions] = v[:, 0]
            keys, values = self.keys[layer, :, :, :reach], self.values[layer, :, :, :reach]
            scores = (keys @ q[:, 0, :, :, None])[..., 0] * (1 / math.sqrt(q.shape[-1]))
            weights = torch.softmax(scores.masked_fill(~seen[:, None], float("-inf")), -1)
            mixed = (weights[:, :, None] @ values)[:, :, 0]
            x = x + block.attention.out(mixed.reshape(B, 1, -1))
            x = x + block.feed_forward(norm(x))
        self.positions = self.positions + 1
        return model.head(norm(x)[:, 0])

    def has_room(self, row: int) -> bool:
        """Whether a row can take one more token."""
        return int(self.positions[row]) < self.length

    def keep(self, rows: list[int]) -> None:
        """Drop all but `rows`."""
        index = torch.tensor(rows, device=self.positions.device)
        self.positions = self.positions[index]
        self.keys, self.values = self.keys[:, index], self.values[:, index]
