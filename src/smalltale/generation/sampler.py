"""Samples the next token of each row by temperature, top-k, top-p, min-p and repetition penalty.

Input: logits (B, V) and a uniform number in [0, 1) per row. Output: token ids (B,) and their log-probabilities.
The uniform numbers of a completion depend on (seed, prompt, sample) only, so it does not depend on its batch.
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
from smalltale.generation.native_decoder import top_k

TOP_CANDIDATES = 64
"""Top tokens that are checked first; only rows whose top-p or min-p set is larger are sorted completely."""


@dataclass(frozen=True, kw_only=True)
class RankWeights:
    """Weights of the signals of best-of-N; a signal's points are its weight times its value between 0 and 1."""

    ended: float = 3.0
    """The last sentence is complete, and the model itself ended the story."""
    unlooped: float = 2.0
    """Sentences and four-word runs do not repeat."""
    likelihood: float = 1.0
    """The mean log-probability is in the middle range of the candidates: neither dull nor wild."""
    names: float = 1.0
    """A name of the prompt returns, and few new names appear."""
    pronouns: float = 0.5
    """He and she are as frequent as in the prompt."""
    dialogue: float = 1.0
    """Quotation marks are closed."""
    uncopied: float = 2.0
    """No long span is copied from the training text; 0 points without a training text."""
    length: float = 1.0
    """The length is that of a story, 40 to 260 words."""
    diversity: float = 2.0
    """Penalty for overlap with a completion already chosen for the prompt: this times the share of common word pairs."""


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How completions are generated."""

    samples: int = 4
    """Different completions per prompt."""
    best_of: int = 0
    """Generate this many candidates per prompt and keep the best `samples` of them; 0: keep all."""
    temperature: float = 0.7
    """0: always the most likely token."""
    top_k: int = 0
    """Only the k most likely tokens; 0: all."""
    top_p: float = 0.95
    """Only the most likely tokens that together have this probability."""
    min_p: float = 0.0
    """Only tokens with at least this share of the most likely token's probability (arXiv 2407.01082); 0: all."""
    repetition_penalty: float = 1.0
    """Logits of tokens already in the prompt or story are divided (negative ones multiplied) by this (arXiv 1909.05858)."""
    max_tokens: int = 250
    """Maximum tokens per completion."""
    loop_repeats: int = 4
    """A story that ends with this many repetitions of one run of tokens is stopped; 0: never."""
    batch: int = 0
    """Completions generated at once; 0: a default for the device."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 on devices that multiply in it."""
    seed: int = 0
    rank: RankWeights = RankWeights()

    def __post_init__(self) -> None:
        if self.samples < 1 or self.max_tokens < 1 or self.batch < 0:
            raise RecipeError("generation: samples and max_tokens must be at least 1, batch at least 0")
        if not 0 <= self.temperature < math.inf or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise RecipeError("generation: temperature and top_k must be at least 0, top_p must be in (0, 1]")
        if not 0 <= self.min_p < 1 or not 0 < self.repetition_penalty < math.inf:
            raise RecipeError("generation: min_p must be in [0, 1), repetition_penalty above 0")
        if self.loop_repeats < 0 or self.loop_repeats == 1:
            raise RecipeError("generation: loop_repeats must be 0 (no guard) or at least 2")
        if self.best_of and self.best_of < self.samples:
            raise RecipeError(
                f"generation: best_of = {self.best_of} is fewer than samples = {self.samples}; raise it or set it to 0"
            )

    @property
    def candidates(self) -> int:
        """Candidates to generate per prompt."""
        return self.best_of or self.samples


@dataclass(frozen=True)
class SampledTokens:
    """One token per row: ids (B,), and the model's log-probabilities (B,) before temperature, penalty and cuts."""

    ids: Tensor
    log_probability: Tensor


def uniform_draws(seed: int, prompt: str, sample: int, count: int) -> NDArray[np.float64]:
    """The uniform numbers of one completion, (count,)."""
    key = hashlib.blake2b(f"{seed}\x00{sample}\x00{prompt}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "big"))).random(count)


def sample_tokens(
    logits: Tensor, uniform: Tensor, config: GenerationConfig, seen: Tensor | None = None
) -> SampledTokens:
    """logits: (B, V) float32, uniform: (B,), seen: (B, V) bool, the tokens to which the repetition penalty applies."""
    penalised = logits if seen is None else penalise_repetition(logits, seen, config.repetition_penalty)
    if config.temperature == 0:
        ids = penalised.argmax(-1)
    else:
        ids = sample_ids(penalised / config.temperature, uniform, config)
    return SampledTokens(ids, logits.gather(-1, ids[:, None])[:, 0] - logits.logsumexp(-1))


def penalise_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Lower the logits of the tokens in `seen` (both (B, V)); a penalty below 1 raises them."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def sample_ids(logits: Tensor, uniform: Tensor, config: GenerationConfig) -> Tensor:
    """One id per row, (B,), by the probabilities that top-k, top-p and min-p leave."""
    V = logits.shape[-1]
    width = min(config.top_k or TOP_CANDIDATES, V)
    values, order = top_k(logits, width)
    # With top-k only the k tokens count for the probabilities, otherwise the complete row does.
    total = (values if config.top_k else logits).logsumexp(-1, keepdim=True)
    probabilities = torch.exp(values - total)
    ids = sample_sorted(probabilities, order, uniform, config)
    if not config.top_k and width < V:
        incomplete = is_cut_complete(probabilities, config).logical_not().nonzero()[:, 0]
        if len(incomplete):
            softmax = torch.softmax(logits[incomplete], -1)
            probabilities, order = softmax.sort(dim=-1, descending=True, stable=True)
            ids[incomplete] = sample_sorted(probabilities, order, uniform[incomplete], config)
    return ids


def is_cut_complete(probabilities: Tensor, config: GenerationConfig) -> Tensor:
    """Whether top-p or min-p cuts within the top tokens of a row: probabilities (B, k), descending. Returns (B,)."""
    reaches_top_p = probabilities.sum(-1) >= config.top_p
    return reaches_top_p | (probabilities[:, -1] < config.min_p * probabilities[:, 0])


def sample_sorted(probabilities: Tensor, order: Tensor, uniform: Tensor, config: GenerationConfig) -> Tensor:
    """Apply top-p and min-p, then sample: probabilities (B, k), descending, of the ids `order` (B, k). Returns ids (B,)."""
    before = probabilities.cumsum(-1) - probabilities
    is_cut = (before >= config.top_p) | (probabilities < config.min_p * probabilities[:, :1])
    remaining = probabilities.masked_fill(is_cut, 0.0)
    cumulative = remaining.cumsum(-1)
    target = uniform[:, None].to(cumulative.dtype) * cumulative[:, -1:]
    rank = torch.searchsorted(cumulative, target, right=True)
    last_rank = ((remaining > 0).sum(-1, keepdim=True) - 1).clamp_min(0)
    return order.gather(-1, torch.minimum(rank, last_rank))[:, 0]


def ends_in_loop(ids: list[int], repeats: int) -> bool:
    """Whether ids end with `repeats` repetitions of a run of 1 to 40 tokens that cover at least 16 tokens."""
    for period in range(1, 41):
        length = max(period * repeats, -(-16 // period) * period)
        if length > len(ids):
            if period * repeats > len(ids):
                return False
            continue
        tail = ids[-length:]
        if tail[period:] == tail[:-period]:
            return True
    return False
