"""Fits a recipe's batches to the machine: to its memory, its speed and its number of ranks.

In: a TrainingConfig, the device, the ranks. Out: tokens a step, and tokens that go through the model at once.
Beware: the micro-batch changes a result only in its rounding; the batch changes it, so a resumed run keeps its own.
"""

from __future__ import annotations

from smalltale.errors import RecipeError
from smalltale.model.transformer import ModelConfig
from smalltale.training.config import TrainingConfig
from smalltale.training.device import Device
from smalltale.training.distributed import Ranks

CACHED_TOKENS = 4096
"""Tokens at once on a processor: more do not fit its cache, and gain nothing (2 cores with AMX, 2026-11-23)."""
SMALLEST_BATCH = 4096
LEAST_STEPS = 1500
"""A run with fewer steps learns more from smaller batches: 4,096 tokens beat 8,192 beat 16,384 (docs/log.md)."""
MEMORY_SHARE = 0.6
"""Of a GPU's memory, for what a backward pass needs of its forward pass."""
SAVED = 60
"""Bytes a token, layer and feature that a backward pass needs: about 30 values of two bytes."""


def refuse_uneven(config: TrainingConfig, ranks: Ranks) -> None:
    """Raise RecipeError where the batch does not divide by the ranks and rows."""
    unit = ranks.size * config.row_length
    if config.batch_tokens % unit:
        raise RecipeError(
            f"training.batch_tokens = {config.batch_tokens} does not divide into {ranks.size} ranks' rows of "
            f"{config.row_length} tokens; make it a multiple of {unit}"
        )


def fitting_tokens(shape: ModelConfig, device: Device) -> int:
    """The most tokens to try at once."""
    if device.kind == "cpu":
        return CACHED_TOKENS
    return int(device.memory_bytes * MEMORY_SHARE / (SAVED * shape.layers * shape.width))


def fitting_part(tokens: int, row_length: int, most: int) -> int:
    """The largest whole part of `tokens` that is whole rows and at most `most`, or one row."""
    rows = tokens // row_length
    parts = next(
        each for each in range(1, rows + 1) if rows % each == 0 and tokens // each <= max(most, row_length)
    )
    return tokens // parts


def batch_for(config: TrainingConfig, tokens_per_second: float, ranks: Ranks) -> int:
    """Tokens a step: the recipe's, halved while a time budget would end after too few steps."""
    batch = config.batch_tokens
    seconds = 60 * config.schedule.minutes
    unit = ranks.size * config.row_length
    while (
        seconds
        and seconds * tokens_per_second / batch < LEAST_STEPS
        and batch // 2 >= SMALLEST_BATCH
        and batch // 2 % unit == 0
    ):
        batch //= 2
    return batch
