"""Chooses batch and micro-batch sizes for the machine: its memory, its speed and its number of ranks.

Input: a TrainingConfig, the device, the ranks. Output: tokens per optimizer step, and tokens per forward pass.
Note: the micro-batch size changes results only by rounding. The batch size changes them, so a resumed run keeps its own.
"""

from __future__ import annotations

from smalltale.errors import RecipeError
from smalltale.model.transformer import ModelConfig
from smalltale.training.config import TrainingConfig
from smalltale.training.device import Device
from smalltale.training.distributed import Distributed

CACHED_TOKENS = 4096
"""Tokens per forward pass on a CPU: more do not fit its cache and are no faster (2 cores with AMX, 2026-11-23)."""
MIN_BATCH_TOKENS = 4096
MIN_STEPS = 1500
"""A run with fewer steps learns more from smaller batches: 4,096 tokens beat 8,192 beat 16,384 (docs/log.md)."""
MEMORY_SHARE = 0.6
"""Share of a GPU's memory for the activations that the forward pass saves for the backward pass."""
ACTIVATION_BYTES = 60
"""Saved bytes per token, layer and feature: about 30 values of two bytes."""


def check_batch_divides(config: TrainingConfig, distributed: Distributed) -> None:
    """Raise RecipeError unless the batch is a multiple of ranks times row length."""
    unit = distributed.world_size * config.row_length
    if config.batch_tokens % unit:
        raise RecipeError(
            f"training.batch_tokens = {config.batch_tokens} does not divide into rows of {config.row_length} tokens "
            f"on {distributed.world_size} ranks; make it a multiple of {unit}"
        )


def max_tokens_in_memory(shape: ModelConfig, device: Device) -> int:
    """Tokens per forward pass to try first."""
    if device.kind == "cpu":
        return CACHED_TOKENS
    return int(device.memory_bytes * MEMORY_SHARE / (ACTIVATION_BYTES * shape.layers * shape.width))


def largest_micro_batch(tokens: int, row_length: int, max_tokens: int) -> int:
    """The largest divisor of `tokens` that is a multiple of `row_length` and at most `max_tokens`, or one row."""
    rows = tokens // row_length
    limit = max(max_tokens, row_length)
    count = next(n for n in range(1, rows + 1) if rows % n == 0 and tokens // n <= limit)
    return tokens // count


def choose_batch_tokens(config: TrainingConfig, tokens_per_second: float, distributed: Distributed) -> int:
    """Tokens per step: the recipe's, halved while the time budget allows fewer than MIN_STEPS steps."""
    batch_tokens = config.batch_tokens
    seconds = 60 * config.schedule.minutes
    unit = distributed.world_size * config.row_length
    while (
        seconds
        and seconds * tokens_per_second / batch_tokens < MIN_STEPS
        and batch_tokens // 2 >= MIN_BATCH_TOKENS
        and batch_tokens // 2 % unit == 0
    ):
        batch_tokens //= 2
    return batch_tokens
