"""Mixing sources: repeats and positions."""

from __future__ import annotations

import numpy as np
import pytest

from smalltale.corpus.config import check_schedule
from smalltale.corpus.hashing import mix_bits
from smalltale.corpus.steps.mixture import is_in_validation, order_stories, repeats_by_source
from smalltale.errors import RecipeError

KEYS = mix_bits(np.arange(4000, dtype=np.uint64))
SOURCE = np.repeat([0, 1], [3000, 1000])
NAMES = ["stories", "wiki"]


def test_weights_and_temperature_set_how_often_a_source_is_repeated() -> None:
    counts = {"stories": 3000, "wiki": 1000}
    assert repeats_by_source(counts, {}, 1.0) == {"stories": 1.0, "wiki": 1.0}
    assert repeats_by_source(counts, {"wiki": 2.5}, 1.0)["wiki"] == 2.5
    assert repeats_by_source(counts, {}, 2.0)["wiki"] == pytest.approx(3**0.5)
    assert repeats_by_source(counts, {}, 1e9)["wiki"] == pytest.approx(3.0)
    with pytest.raises(RecipeError, match="not a source"):
        repeats_by_source(counts, {"wikis": 1.0}, 1.0)


def test_repeats_are_drawn_and_spread_over_the_run() -> None:
    story, position = order_stories(KEYS, SOURCE, NAMES, {"wiki": 2.5, "stories": 0.5}, {}, seed=1)
    wiki = np.bincount(story, minlength=4000)[3000:]
    assert set(wiki.tolist()) == {2, 3}
    assert wiki.sum() == pytest.approx(2500, rel=0.05)
    assert np.count_nonzero(story < 3000) == pytest.approx(1500, rel=0.05)
    assert np.all(np.diff(position) >= 0)
    assert abs(position.mean() - 0.5) < 0.02
    assert np.diff(position[story == 3000]).min() > 0.2


def test_a_schedule_limits_a_source_to_its_part_of_the_run() -> None:
    story, position = order_stories(
        KEYS, SOURCE, NAMES, {}, {"wiki": (0.0, 0.3), "stories": (0.2, 1.0)}, seed=1
    )
    assert position[story >= 3000].max() < 0.3
    assert position[story < 3000].min() >= 0.2


def test_the_order_is_a_shuffle_that_depends_only_on_the_seed() -> None:
    first, _ = order_stories(KEYS, SOURCE, NAMES, {}, {}, seed=1)
    again, _ = order_stories(KEYS, SOURCE, NAMES, {}, {}, seed=1)
    reseeded, _ = order_stories(KEYS, SOURCE, NAMES, {}, {}, seed=2)
    assert first.tolist() == again.tolist() != reseeded.tolist()
    assert sorted(first.tolist()) == list(range(4000))
    assert abs(np.corrcoef(first, np.arange(4000))[0, 1]) < 0.05


def test_the_val_split_has_its_share() -> None:
    assert is_in_validation(KEYS, 0.1).mean() == pytest.approx(0.1, abs=0.02)
    assert is_in_validation(KEYS, 0.0).sum() == 0


@pytest.mark.parametrize("window", [(0.5,), (0.5, 0.5), (-0.1, 1.0), (0.0, 1.1)])
def test_an_invalid_schedule_window_is_an_error(window: tuple[float, ...]) -> None:
    with pytest.raises(RecipeError, match="two shares of the run"):
        check_schedule({"wiki": window})
