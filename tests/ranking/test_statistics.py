"""Statistics against cases with a known answer."""

from __future__ import annotations

import math

import numpy as np
import pytest

from smalltale.ranking.statistics import (
    PairedComparison,
    assign_ranks,
    auc,
    bradley_terry,
    clustered_interval,
    compare_paired,
    length_adjusted,
    prompts_to_separate,
    quadratic_kappa,
    spearman,
    weighted_mean_and_sd,
)


def test_an_interval_draws_whole_prompts_and_covers_the_truth_as_often_as_it_says() -> None:
    draw, hits = np.random.default_rng(0), 0
    for seed in range(200):
        prompts = {str(n): list(6 + draw.normal(0, 1) + draw.normal(0, 0.3, size=4)) for n in range(40)}
        interval = clustered_interval(prompts, seed=seed)
        assert interval is not None
        assert interval.low is not None
        assert interval.high is not None
        hits += interval.low <= 6 <= interval.high
    assert 0.90 <= hits / 200 <= 0.99


def test_the_order_of_prompts_and_stories_changes_no_digit_of_an_interval() -> None:
    draw = np.random.default_rng(2)
    scores_by_prompt = {str(n): draw.normal(5, 2, size=4).tolist() for n in range(20)}
    shuffled = {prompt: scores_by_prompt[prompt][::-1] for prompt in sorted(scores_by_prompt, reverse=True)}
    assert clustered_interval(shuffled) == clustered_interval(scores_by_prompt)
    stories = [(float(score), float(weight)) for score, weight in draw.random((5, 2))]
    assert weighted_mean_and_sd(stories[::-1])[0] == weighted_mean_and_sd(stories)[0]


def test_one_prompt_gives_a_mean_without_an_interval() -> None:
    interval = clustered_interval({"a": [1.0, 3.0], "b": []})
    assert interval is not None
    assert (interval.mean, interval.low) == (2.0, None)
    assert clustered_interval({}) is None


def test_pairing_sees_what_the_spread_of_prompts_hides() -> None:
    draw = np.random.default_rng(1)
    hard = draw.normal(5, 2, size=40)
    first = {str(n): [hard[n] + 0.3 + draw.normal(0, 0.2)] for n in range(40)}
    second = {str(n): [hard[n] + draw.normal(0, 0.2)] for n in range(40)}
    comparison = compare_paired(first, second)
    assert comparison is not None
    assert comparison.is_separated
    assert comparison.p_value < 0.01
    same = compare_paired(first, first)
    assert same is not None
    assert not same.is_separated
    assert same.p_value == 1.0
    assert compare_paired(first, {"elsewhere": [1.0]}) is None


def test_as_many_prompts_as_it_asks_for_separate_the_difference_four_times_in_five() -> None:
    draw = np.random.default_rng(5)

    def entries(prompts: int) -> PairedComparison:
        noise = draw.normal(0, 1, size=(2, prompts))
        sides = [
            {str(n): [5 + gain + side[n]] for n in range(prompts)}
            for gain, side in zip((0.4, 0.0), noise, strict=True)
        ]
        comparison = compare_paired(*sides)
        assert comparison is not None
        return comparison

    needed = entries(2_000).prompts_to_separate(0.4)
    assert 85 <= needed <= 111, "((1.96 + 0.842) / 0.4)² x 2 = 98"
    hits = sum(entries(needed).is_separated for _ in range(200))
    assert 0.70 <= hits / 200 <= 0.90


def test_bradley_terry_finds_the_strengths_that_made_the_games() -> None:
    strength = {"a": 1.0, "b": 0.0, "c": -1.0}
    wins = {
        (x, y): 10_000 / (1 + math.exp(strength[y] - strength[x]))
        for x in strength
        for y in strength
        if x != y
    }
    strengths = bradley_terry(wins)
    assert strengths == pytest.approx(strength, abs=0.01)


def test_ranks_are_shared_where_nothing_separates() -> None:
    assert assign_ranks([7.0, 6.9, 5.0, 4.9], lambda better, worse: better - worse > 0.5) == [1, 1, 3, 3]


def test_a_difference_in_the_last_bit_separates_nothing() -> None:
    comparison = compare_paired({str(n): [0.1 + 0.2] for n in range(9)}, {str(n): [0.3] for n in range(9)})
    assert comparison is not None
    assert (comparison.wins, comparison.losses, comparison.is_separated) == (0, 0, False)


def test_small_measures() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1.0)
    assert spearman([1, 1, 1], [1, 2, 3]) is None
    assert auc([2, 3], [1, 2]) == pytest.approx(0.875)
    assert quadratic_kappa([1, 5, 10], [1, 5, 10], 1, 10) == pytest.approx(1.0)
    assert quadratic_kappa([5, 5], [5, 5], 1, 10) is None
    adjusted = length_adjusted([1.0, 2.0, 3.0], [10, 100, 1000])
    assert np.ptp(adjusted) == pytest.approx(0.0, abs=1e-9)
    prompts = {str(n): [float(n % 2)] for n in range(10)}
    fewer, more = prompts_to_separate(prompts, 0.5), prompts_to_separate(prompts, 0.1)
    assert fewer is not None
    assert more is not None
    assert more > fewer
