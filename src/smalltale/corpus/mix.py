"""Mix sources: how often each story is seen, and where in the training order it stands.

In: hashes of stories, weights, a temperature, a schedule. Out: the place of every copy in [0, 1).
Beware: a place comes from a story's own hash and the seed, so adding data leaves the order of the rest as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from smalltale.corpus.shingles import Hashes, mixed, shares
from smalltale.errors import RecipeError

SPLIT_SALT, PLACE_SALT, COPY_SALT = 1, 2, 3
STEP = 0.6180339887498949
"""The golden ratio's part after the point: copies of a story stand as far apart as they can."""


def in_validation(keys: Hashes, share: float) -> NDArray[np.bool_]:
    """Which stories are held out: by their own hash alone, so no later build moves one across."""
    return shares(mixed(keys, SPLIT_SALT)) < share


def base_places(keys: Hashes, seed: int) -> NDArray[np.float64]:
    """The place of each story's first copy before any schedule, 0 <= place < 1."""
    return shares(mixed(mixed(keys, PLACE_SALT), seed))


def copies(counts: Mapping[str, int], weights: Mapping[str, float], temperature: float) -> dict[str, float]:
    """How often a story of each source is seen.

    The share of a source grows as counts ** (1 / temperature): 1 leaves sizes as they are, more evens them out, the
    largest source staying as it is. `weights` multiply that; a source without one has 1.
    """
    for name in weights:
        if name not in counts:
            raise RecipeError(
                f"corpus.weights names {name!r}, which is no source; the sources are: {', '.join(counts)}"
            )
    largest = max(counts.values(), default=1)
    return {
        name: weights.get(name, 1.0) * ((largest / count) ** (1 - 1 / temperature) if count else 1.0)
        for name, count in counts.items()
    }


def lay_out(
    keys: Hashes,
    source_of: NDArray[np.int64],
    names: Sequence[str],
    times: Mapping[str, float],
    schedule: Mapping[str, Sequence[float]],
    seed: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The training order of all copies: which story (copies,), and its place in [0, 1) (copies,), places rising.

    `schedule` gives a source the part of the run that it stands in, for example {"simplewiki": (0, 0.3)}.
    """
    first = base_places(keys, seed)
    chance = shares(mixed(mixed(keys, COPY_SALT), seed))
    times_each = np.array([times.get(name, 1.0) for name in names])[source_of] if len(keys) else np.zeros(0)
    number = np.floor(times_each).astype(np.int64) + (chance < times_each % 1)
    story = np.repeat(np.arange(len(keys)), number)
    copy = np.arange(len(story)) - np.repeat(np.cumsum(number) - number, number)
    place = (first[story] + copy * STEP) % 1
    windows = np.array([schedule.get(name, (0.0, 1.0)) for name in names], float).reshape(-1, 2)
    low, high = windows[source_of[story], 0], windows[source_of[story], 1]
    place = np.minimum(low + (high - low) * place, np.nextafter(1, 0))
    order = np.lexsort((story, place))
    return story[order], place[order]


def check_schedule(schedule: Mapping[str, Sequence[float]]) -> None:
    """Raise RecipeError for a part of the run that is none."""
    for name, window in schedule.items():
        if len(window) != 2 or not 0 <= window[0] < window[1] <= 1:
            raise RecipeError(
                f"corpus.schedule.{name} is {list(window)}; give two shares of the run, for example [0, 0.3]"
            )
