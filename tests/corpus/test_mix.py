"""Mixing: how often and where."""

from __future__ import annotations

import numpy as np
import pytest

from smalltale.corpus.mix import check_schedule, copies, in_validation, lay_out
from smalltale.corpus.shingles import mixed
from smalltale.errors import RecipeError

KEYS = mixed(np.arange(4000, dtype=np.uint64))
SOURCE = np.repeat([0, 1], [3000, 1000])
NAMES = ["stories", "wiki"]


def test_weights_and_temperature_say_how_often_a_source_is_seen() -> None:
    counts = {"stories": 3000, "wiki": 1000}
    assert copies(counts, {}, 1.0) == {"stories": 1.0, "wiki": 1.0}
    assert copies(counts, {"wiki": 2.5}, 1.0)["wiki"] == 2.5
    assert copies(counts, {}, 2.0)["wiki"] == pytest.approx(3**0.5)
    assert copies(counts, {}, 1e9)["wiki"] == pytest.approx(3.0)
    with pytest.raises(RecipeError, match="no source"):
        copies(counts, {"wikis": 1.0}, 1.0)


def test_copies_are_drawn_and_spread_over_the_run() -> None:
    story, place = lay_out(KEYS, SOURCE, NAMES, {"wiki": 2.5, "stories": 0.5}, {}, seed=1)
    wiki = np.bincount(story, minlength=4000)[3000:]
    assert set(wiki.tolist()) == {2, 3}
    assert wiki.sum() == pytest.approx(2500, rel=0.05)
    assert np.count_nonzero(story < 3000) == pytest.approx(1500, rel=0.05)
    assert np.all(np.diff(place) >= 0)
    assert abs(place.mean() - 0.5) < 0.02
    one = place[story == 3000]
    assert np.diff(one).min() > 0.2


def test_a_schedule_puts_a_source_into_its_part_of_the_run() -> None:
    story, place = lay_out(KEYS, SOURCE, NAMES, {}, {"wiki": (0.0, 0.3), "stories": (0.2, 1.0)}, seed=1)
    assert place[story >= 3000].max() < 0.3
    assert place[story < 3000].min() >= 0.2


def test_the_order_is_a_shuffle_that_depends_on_the_seed_alone() -> None:
    first, _ = lay_out(KEYS, SOURCE, NAMES, {}, {}, seed=1)
    again, _ = lay_out(KEYS, SOURCE, NAMES, {}, {}, seed=1)
    other, _ = lay_out(KEYS, SOURCE, NAMES, {}, {}, seed=2)
    assert first.tolist() == again.tolist() != other.tolist()
    assert sorted(first.tolist()) == list(range(4000))
    assert abs(np.corrcoef(first, np.arange(4000))[0, 1]) < 0.05


def test_the_split_takes_its_share() -> None:
    assert in_validation(KEYS, 0.1).mean() == pytest.approx(0.1, abs=0.02)
    assert in_validation(KEYS, 0.0).sum() == 0


@pytest.mark.parametrize("window", [(0.5,), (0.5, 0.5), (-0.1, 1.0), (0.0, 1.1)])
def test_a_part_of_the_run_that_is_none_is_refused(window: tuple[float, ...]) -> None:
    with pytest.raises(RecipeError, match="two shares of the run"):
        check_schedule({"wiki": window})
