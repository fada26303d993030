"""Choose the next token: temperature, top-k and top-p, with draws that belong to one completion alone.

In: logits (B, V) and one number in [0, 1) for each row. Out: token ids (B,).
Beware: the draws of a completion depend on (seed, prompt, sample) only, never on what else is in the batch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smalltale.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How completions are written."""

    samples: int = 4
    """Different completions for each prompt."""
    temperature: float = 0.7
    """0: always the likeliest token."""
    top_k: int = 0
    """Only the k likeliest tokens; 0: all."""
    top_p: float = 0.95
    """Only the likeliest tokens that together have this probability."""
    max_tokens: int = 250
    """Tokens of a completion at most."""
    batch: int = 64
    """Completions written at once."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 1 or self.max_tokens < 1 or self.batch < 1:
            raise RecipeError("generation: samples, max_tokens and batch must be at least 1")
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise RecipeError(
                "generation: temperature and top_k must not be negative, top_p must be in (0, 1]"
            )


def draws(seed: int, prompt: str, sample: int, count: int) -> NDArray[np.float64]:
    """The uniform numbers of one completion, (count,)."""
    key = hashlib.blake2b(f"{seed}\x00{sample}\x00{prompt}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "big"))).random(count)


def choose(logits: Tensor, uniform: Tensor, config: GenerationConfig) -> Tensor:
    """logits: (B, V) float32, uniform: (B,). Returns the chosen ids (B,)."""
    if config.temperature == 0:
        return logits.argmax(-1)
    logits = logits / config.temperature
    if config.top_k:
        least = logits.topk(min(config.top_k, logits.shape[-1]), dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    probabilities, order = torch.softmax(logits, -1).sort(dim=-1, descending=True, stable=True)
    cumulative = probabilities.cumsum(-1)
    kept = probabilities.masked_fill(cumulative - probabilities >= config.top_p, 0.0)
    reached = kept.cumsum(-1)
    place = torch.searchsorted(reached, uniform[:, None].to(reached.dtype) * reached[:, -1:], right=True)
    last = (kept > 0).sum(-1, keepdim=True) - 1
    return order.gather(-1, torch.minimum(place, last))[:, 0]
