"""Decoding in torch alone: for accelerators, and where no compiler is at hand.

In: a Transformer's weights and prompts of different lengths. Out: the logits of each row's next token.
Beware: rows stand left-aligned, each at its own position; `keep` drops rows that are finished.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from smalltale.generation.inference_weights import Weights
from smalltale.model.transformer import norm, rotate

REACH_STEP = 64
"""Places looked at grow by so many: a library may plan its attention anew for each new length, and a first run of 200 steps
on an H200 took 9.7 s where the later ones took 1.5 s (2026-11-24; that plans are the cause is likely, not shown)."""


class TorchDecoder:
    """A batch of rows whose keys and values stand in one tensor for each layer."""

    def __init__(self, weights: Weights, longest_prompt: int, room: int) -> None:
        self.weights = weights
        config = weights.config
        self.length = min(config.context, longest_prompt + room)
        shape = (config.layers, 0, config.heads, self.length, config.head_width)
        self.keys = torch.zeros(shape, device=weights.device, dtype=weights.dtype)
        self.values = torch.zeros_like(self.keys)
        self.positions = torch.zeros(0, dtype=torch.long, device=weights.device)

    @torch.inference_mode()
    def add(self, prompts: list[list[int]]) -> Tensor:
        """Read prompts, each once, and add a row for each of the list. Returns logits (new rows, V)."""
        distinct = list(dict.fromkeys(map(tuple, prompts)))
        read = self.weights.read([list(each) for each in distinct])
        places = {each: place for place, each in enumerate(distinct)}
        index = torch.tensor([places[tuple(each)] for each in prompts], device=self.weights.device)
        padding = (0, 0, 0, self.length - read.keys.shape[3])
        self.keys = torch.cat((self.keys, F.pad(read.keys[:, index], padding)), dim=1)
        self.values = torch.cat((self.values, F.pad(read.values[:, index], padding)), dim=1)
        lengths = torch.tensor([len(each) for each in prompts], device=self.weights.device)
        self.positions = torch.cat((self.positions, lengths))
        return read.logits[index]

    @torch.inference_mode()
    def step(self, ids: Tensor) -> Tensor:
        """Take one token a row, ids: (B,). Returns logits (B, V)."""
        weights, B = self.weights, len(ids)
        H, D, dtype = weights.config.heads, weights.config.head_width, weights.dtype
        rotation = (weights.cosine[self.positions][:, None], weights.sine[self.positions][:, None])
        reach = min(self.length, -(-(int(self.positions.max()) + 1) // REACH_STEP) * REACH_STEP)
        seen = torch.arange(reach, device=ids.device)[None] <= self.positions[:, None]
        rows = torch.arange(B, device=ids.device)
        x = first = weights.first(ids)
        for number, layer in enumerate(weights.layers):
            x = layer.scale * x + layer.back * first
            qkv = weights.product(norm(x).to(dtype), layer.qkv).view(B, 1, 3, H, D)
            q, k, v = qkv.unbind(2)
            q, k = (rotate(norm(each.float()), rotation).to(dtype) for each in (q, k))
            self.keys[number, rows, :, self.positions] = k[:, 0]
            self.values[number, rows, :, self.positions] = v[:, 0]
            mixed = F.scaled_dot_product_attention(
                q.transpose(1, 2),
                self.keys[number, :, :, :reach],
                self.values[number, :, :, :reach],
                attn_mask=seen[:, None, None],
            )
            x = x + weights.product(mixed.transpose(1, 2).reshape(B, -1), layer.out)
            hidden = F.relu(weights.product(norm(x).to(dtype), layer.up)).square()
            x = x + weights.product(hidden, layer.down)
        # a finished row that is still fed overwrites its last place
        self.positions = (self.positions + 1).clamp_max(self.length - 1)
        return weights.head(norm(x).to(dtype))

    def keep(self, rows: list[int]) -> None:
        """Drop all but `rows`."""
        index = torch.tensor(rows, dtype=torch.long, device=self.positions.device)
        self.positions = self.positions[index]
        self.keys, self.values = self.keys[:, index], self.values[:, index]
