"""Decoding in plain PyTorch, for accelerators and for CPUs without a C++ compiler.

Input: a Transformer's weights and prompts of different lengths. Output: the logits of each row's next token.
Rows are left-aligned in the KV cache, each at its own position.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from smalltale.generation.inference_weights import InferenceWeights
from smalltale.model.transformer import norm, rotate

LENGTH_STEP = 64
"""The attended length grows in steps of this: a library may plan its attention again for each new length. The first run of
200 steps on an H200 took 9.7 s, later ones 1.5 s (2026-11-24); that planning is the cause is likely, not proven."""


class TorchDecoder:
    """A batch of rows with one tensor of keys and one of values for all layers."""

    def __init__(self, weights: InferenceWeights, longest_prompt: int, max_new_tokens: int) -> None:
        self.weights = weights
        config = weights.config
        self.length = min(config.context, longest_prompt + max_new_tokens)
        shape = (config.layers, 0, config.heads, self.length, config.head_width)
        self.keys = torch.zeros(shape, device=weights.device, dtype=weights.dtype)
        self.values = torch.zeros_like(self.keys)
        self.positions = torch.zeros(0, dtype=torch.long, device=weights.device)

    @torch.inference_mode()
    def add(self, prompts: list[list[int]]) -> Tensor:
        """Append a row per prompt; equal prompts are read once. Returns logits (new rows, V)."""
        distinct = list(dict.fromkeys(map(tuple, prompts)))
        prefill = self.weights.prefill([list(prompt) for prompt in distinct])
        index_by_prompt = {prompt: index for index, prompt in enumerate(distinct)}
        indices = [index_by_prompt[tuple(prompt)] for prompt in prompts]
        index = torch.tensor(indices, device=self.weights.device)
        padding = (0, 0, 0, self.length - prefill.keys.shape[3])
        self.keys = torch.cat((self.keys, F.pad(prefill.keys[:, index], padding)), dim=1)
        self.values = torch.cat((self.values, F.pad(prefill.values[:, index], padding)), dim=1)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.weights.device)
        self.positions = torch.cat((self.positions, lengths))
        return prefill.logits[index]

    @torch.inference_mode()
    def step(self, ids: Tensor) -> Tensor:
        """Append one token per row, ids: (B,). Returns logits (B, V)."""
        weights, B = self.weights, len(ids)
        H, D, dtype = weights.config.heads, weights.config.head_width, weights.dtype
        rotation = (weights.cosine[self.positions][:, None], weights.sine[self.positions][:, None])
        length = min(self.length, -(-(int(self.positions.max()) + 1) // LENGTH_STEP) * LENGTH_STEP)
        mask = torch.arange(length, device=ids.device)[None] <= self.positions[:, None]
        rows = torch.arange(B, device=ids.device)
        x = embedding = weights.embed(ids)
        for layer_index, layer in enumerate(weights.layers):
            x = layer.residual_scale * x + layer.embedding_scale * embedding
            qkv = weights.matmul(norm(x).to(dtype), layer.qkv).view(B, 1, 3, H, D)
            q, k, v = qkv.unbind(2)
            q, k = (rotate(norm(part.float()), rotation).to(dtype) for part in (q, k))
            self.keys[layer_index, rows, :, self.positions] = k[:, 0]
            self.values[layer_index, rows, :, self.positions] = v[:, 0]
            mixed = F.scaled_dot_product_attention(
                q.transpose(1, 2),
                self.keys[layer_index, :, :, :length],
                self.values[layer_index, :, :, :length],
                attn_mask=mask[:, None, None],
            )
            x = x + weights.matmul(mixed.transpose(1, 2).reshape(B, -1), layer.out)
            hidden = F.relu(weights.matmul(norm(x).to(dtype), layer.up)).square()
            x = x + weights.matmul(hidden, layer.down)
        # A finished row that has not been dropped yet overwrites its last position.
        self.positions = (self.positions + 1).clamp_max(self.length - 1)
        return weights.head(norm(x).to(dtype))

    def keep(self, rows: list[int]) -> None:
        """Keep only `rows`."""
        index = torch.tensor(rows, dtype=torch.long, device=self.positions.device)
        self.positions = self.positions[index]
        self.keys, self.values = self.keys[:, index], self.values[:, index]
