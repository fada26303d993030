"""Mix the sources: how often each story is repeated, and its position in the training order.

Input: hashes of stories, weights, a temperature, a schedule. Output: the position of every repeat in [0, 1).
A position depends on the story's own hash and the seed alone, so adding data keeps the order of all other stories.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from smalltale.corpus.hashing import Hashes, mix_bits, to_unit_interval
from smalltale.errors import RecipeError

SPLIT_SALT, POSITION_SALT, REPEAT_SALT = 1, 2, 3
REPEAT_DISTANCE = 0.6180339887498949
"""The fractional part of the golden ratio: it spreads the repeats of a story as evenly as possible."""


def is_in_validation(keys: Hashes, share: float) -> NDArray[np.bool_]:
    """Which stories are in the val split: decided by their own hash, so a later build moves none across."""
    return to_unit_interval(mix_bits(keys, SPLIT_SALT)) < share


def base_positions(keys: Hashes, seed: int) -> NDArray[np.float64]:
    """The position of each story's first repeat before any schedule, 0 <= position < 1."""
    return to_unit_interval(mix_bits(mix_bits(keys, POSITION_SALT), seed))


def repeats_by_source(
    counts: Mapping[str, int], weights: Mapping[str, float], temperature: float
) -> dict[str, float]:
    """Compute how often a story of each source is repeated.

    The share of a source grows as counts ** (1 / temperature): 1 keeps the sizes, a higher value evens them out while
    the largest source is not repeated. `weights` multiply that; the default weight is 1.
    """
    check_source_names("weights", weights, counts)
    largest = max(counts.values(), default=1)
    return {
        name: weights.get(name, 1.0) * ((largest / count) ** (1 - 1 / temperature) if count else 1.0)
        for name, count in counts.items()
    }


def check_source_names(setting: str, names: Iterable[str], sources: Collection[str]) -> None:
    """Raise RecipeError if a setting has a name that is not a source."""
    for name in names:
        if name not in sources:
            raise RecipeError(
                f"corpus.{setting} names {name!r}, which is not a source; the sources are: {', '.join(sources)}"
            )


def order_stories(
    keys: Hashes,
    source_of: NDArray[np.int64],
    names: Sequence[str],
    repeats: Mapping[str, float],
    schedule: Mapping[str, Sequence[float]],
    seed: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the training order: the story of each repeat (repeats,) and its rising position in [0, 1) (repeats,).

    `schedule` gives the part of the run in which a source occurs, for example {"simplewiki": (0, 0.3)}.
    """
    first = base_positions(keys, seed)
    chance = to_unit_interval(mix_bits(mix_bits(keys, REPEAT_SALT), seed))
    expected = np.array([repeats.get(name, 1.0) for name in names])[source_of] if len(keys) else np.zeros(0)
    # Of 2.3 expected repeats, every story gets 2 and 30 % of the stories a third.
    count = np.floor(expected).astype(np.int64) + (chance < expected % 1)
    story = np.repeat(np.arange(len(keys)), count)
    repeat = np.arange(len(story)) - np.repeat(np.cumsum(count) - count, count)
    position = (first[story] + repeat * REPEAT_DISTANCE) % 1
    windows = np.array([schedule.get(name, (0.0, 1.0)) for name in names], float).reshape(-1, 2)
    low, high = windows[source_of[story], 0], windows[source_of[story], 1]
    position = np.minimum(low + (high - low) * position, np.nextafter(1, 0))
    order = np.lexsort((story, position))
    return story[order], position[order]
