"""Choose the next token, with draws that belong to one completion alone.

In: logits (B, V) and one number in [0, 1) for each row. Out: token ids (B,) and their log-probabilities.
Beware: the draws of a completion depend on (seed, prompt, sample) only, never on what else is in the batch.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smalltale.errors import RecipeError
from smalltale.generation.native_decoder import likeliest

CANDIDATES = 64
"""Likeliest tokens looked at first; only rows whose top-p reaches further are sorted whole."""


@dataclass(frozen=True, kw_only=True)
class RankWeights:
    """What best-of-N looks for; a signal's points are its weight times a value between 0 and 1."""

    ended: float = 3.0
    """The last sentence is finished, and the model itself ended the story."""
    unlooped: float = 2.0
    """Sentences and word runs do not repeat."""
    likelihood: float = 1.0
    """The mean log-probability lies within the middle of the candidates: neither dull nor wild."""
    names: float = 1.0
    """Names of the beginning come back, and no crowd of new ones."""
    pronouns: float = 0.5
    """He and she fit those of the beginning."""
    dialogue: float = 1.0
    """Quotation marks are closed."""
    uncopied: float = 2.0
    """No long span is copied from the training text, where that is given."""
    length: float = 1.0
    """As many words as a story needs."""
    diversity: float = 2.0
    """Word pairs shared with a completion already chosen for the same prompt cost this much, times their share."""


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How completions are written."""

    samples: int = 4
    """Different completions for each prompt."""
    best_of: int = 0
    """Write so many candidates for each prompt and hand in the best `samples` of them; 0: no more than are needed."""
    temperature: float = 0.7
    """0: always the likeliest token."""
    top_k: int = 0
    """Only the k likeliest tokens; 0: all."""
    top_p: float = 0.95
    """Only the likeliest tokens that together have this probability."""
    min_p: float = 0.0
    """Only tokens at least so likely as this share of the likeliest one (arXiv 2407.01082); 0: all."""
    repetition_penalty: float = 1.0
    """Logits of tokens already in prompt or story are divided (negative ones multiplied) by this (arXiv 1909.05858)."""
    max_tokens: int = 250
    """Tokens of a completion at most."""
    loop_repeats: int = 4
    """A story whose end repeats the same run of tokens so many times is stopped; 0: never."""
    batch: int = 0
    """Completions written at once; 0: as many as suit the device."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 where the device multiplies in it."""
    seed: int = 0
    rank: RankWeights = RankWeights()

    def __post_init__(self) -> None:
        if self.samples < 1 or self.max_tokens < 1 or self.batch < 0:
            raise RecipeError("generation: samples and max_tokens must be at least 1, batch at least 0")
        if not 0 <= self.temperature < math.inf or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise RecipeError(
                "generation: temperature and top_k must not be negative, top_p must be in (0, 1]"
            )
        if not 0 <= self.min_p < 1 or not 0 < self.repetition_penalty < math.inf:
            raise RecipeError("generation: min_p must be in [0, 1), repetition_penalty above 0")
        if self.loop_repeats < 0 or self.loop_repeats == 1:
            raise RecipeError("generation: loop_repeats must be 0 (no guard) or at least 2")
        if self.best_of and self.best_of < self.samples:
            raise RecipeError(
                f"generation: best_of = {self.best_of} is fewer than samples = {self.samples}; raise it, or leave it at 0"
            )

    @property
    def candidates(self) -> int:
        """Completions to write for each prompt."""
        return self.best_of or self.samples


@dataclass(frozen=True)
class Choice:
    """One token for each row: ids (B,), and log-probabilities (B,) before temperature and cuts."""

    ids: Tensor
    log_probability: Tensor


def draws(seed: int, prompt: str, sample: int, count: int) -> NDArray[np.float64]:
    """The uniform numbers of one completion, (count,)."""
    key = hashlib.blake2b(f"{seed}\x00{sample}\x00{prompt}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "big"))).random(count)


def choose(logits: Tensor, uniform: Tensor, config: GenerationConfig, seen: Tensor | None = None) -> Choice:
    """logits: (B, V) float32, uniform: (B,), seen: (B, V) bool, where a repetition penalty is asked for."""
    raw = logits
    if seen is not None:
        penalty = config.repetition_penalty
        logits = torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
    if config.temperature == 0:
        ids = logits.argmax(-1)
    else:
        ids = drawn(logits / config.temperature, uniform, config)
    return Choice(ids, raw.gather(-1, ids[:, None])[:, 0] - raw.logsumexp(-1))


def drawn(logits: Tensor, uniform: Tensor, config: GenerationConfig) -> Tensor:
    """One id a row, (B,), by the probabilities that top-k, top-p and min-p leave."""
    V = logits.shape[-1]
    width = min(config.top_k or CANDIDATES, V)
    values, order = likeliest(logits, width)
    # after a top-k cut the rest has no probability; without one the whole row does
    total = (values if config.top_k else logits).logsumexp(-1, keepdim=True)
    probabilities = torch.exp(values - total)
    ids = picked(probabilities, order, uniform, config)
    if not config.top_k and width < V:
        wide = enough(probabilities, config).logical_not().nonzero()[:, 0]
        if len(wide):
            values, order = torch.softmax(logits[wide], -1).sort(dim=-1, descending=True, stable=True)
            ids[wide] = picked(values, order, uniform[wide], config)
    return ids


def enough(probabilities: Tensor, config: GenerationConfig) -> Tensor:
    """Whether the cut falls among the candidates of a row: probabilities (B, k), falling. Returns (B,)."""
    reached = probabilities.sum(-1) >= config.top_p
    return reached | (probabilities[:, -1] < config.min_p * probabilities[:, 0])


def picked(probabilities: Tensor, order: Tensor, uniform: Tensor, config: GenerationConfig) -> Tensor:
    """probabilities (B, k), falling, of the ids `order` (B, k). Returns the drawn ids (B,)."""
    before = probabilities.cumsum(-1) - probabilities
    out = (before >= config.top_p) | (probabilities < config.min_p * probabilities[:, :1])
    kept = probabilities.masked_fill(out, 0.0)
    reached = kept.cumsum(-1)
    place = torch.searchsorted(reached, uniform[:, None].to(reached.dtype) * reached[:, -1:], right=True)
    last = ((kept > 0).sum(-1, keepdim=True) - 1).clamp_min(0)
    return order.gather(-1, torch.minimum(place, last))[:, 0]


def repeats(ids: list[int], times: int) -> bool:
    """Whether a story's end is one run of 1 to 40 tokens, at least `times` over, and at least 16 tokens in all."""
    for period in range(1, 41):
        length = max(period * times, -(-16 // period) * period)
        if length > len(ids):
            if period * times > len(ids):
                return False
            continue
        tail = ids[-length:]
        if tail[period:] == tail[:-period]:
            return True
    return False
