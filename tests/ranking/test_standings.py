"""Ranks with intervals and ties; entries without a rank come last, with a note."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from smalltale.ranking.standings import Entry, JudgeScores, is_separated, rank, summarise_entry


def judged(
    name: str,
    level: float,
    *,
    prompts: int = 20,
    missing: int = 0,
    judges: tuple[str, ...] = ("a",),
    qualified: bool = True,
) -> Entry:
    noise = random.Random(name)
    stories = [
        JudgeScores(
            prompt=f"p{p}",
            sample=s,
            judge=judge,
            scores={"grammar": level + p % 3 + noise.uniform(-0.3, 0.3), "plot": level},
        )
        for p in range(prompts)
        for s in range(4)
        for judge in judges
    ]
    return summarise_entry(name, stories[missing:], expected=len(stories), qualified=qualified)


def test_the_better_entry_ranks_first_and_the_interval_holds_its_mean() -> None:
    standings = rank([judged("low", 4.0), judged("high", 7.0)])
    assert [(standing.entry.name, standing.rank, standing.tied) for standing in standings] == [
        ("high", 1, False),
        ("low", 2, False),
    ]
    first = standings[0].entry
    assert first.mean is not None
    assert first.low is not None
    assert first.high is not None
    assert first.low < first.mean < first.high
    assert set(first.criteria) == {"grammar", "plot"}


def test_entries_that_the_noise_does_not_separate_share_a_rank_and_the_next_counts_on() -> None:
    standings = rank([judged("one", 6.0), judged("two", 6.0), judged("three", 3.0)])
    assert [standing.rank for standing in standings] == [1, 1, 3]
    assert [standing.tied for standing in standings] == [True, True, False]


def test_pairing_separates_what_intervals_alone_would_not() -> None:
    better, worse = judged("better", 6.3), judged("worse", 6.0)
    assert better.low is not None
    assert worse.high is not None
    assert better.low < worse.high
    assert is_separated(better, worse)


def test_an_incomplete_entry_comes_after_every_complete_one_with_a_note() -> None:
    standings = rank([judged("half", 9.0, missing=40), judged("complete", 2.0)])
    assert [standing.entry.name for standing in standings] == ["complete", "half"]
    assert standings[1].rank is None
    assert standings[1].note == "incomplete: 40 of 80 judgements"


def test_a_judge_that_is_not_qualified_never_ranks() -> None:
    standings = rank([judged("plumbing", 9.0, qualified=False), judged("real", 2.0)])
    assert [(standing.entry.name, standing.rank) for standing in standings] == [
        ("real", 1),
        ("plumbing", None),
    ]
    assert "not qualified" in standings[1].note


def test_a_judgement_without_a_score_is_missing_and_not_zero() -> None:
    stories = [
        JudgeScores(prompt="p", sample=0, judge="a", scores={"plot": 8.0}),
        JudgeScores(prompt="p", sample=1, judge="a", state="unparsable"),
    ]
    entry = summarise_entry("team", stories, expected=2)
    assert (entry.mean, entry.judged, entry.is_complete) == (8.0, 1, False)


def test_two_judges_show_how_far_they_disagree() -> None:
    stories = [
        JudgeScores(prompt="p", sample=0, judge=judge, overall=score)
        for judge, score in (("a", 4.0), ("b", 8.0))
    ]
    assert summarise_entry("team", stories, expected=2).disagreement == 2.0


def test_nothing_judged_has_no_mean() -> None:
    assert summarise_entry("team", [], expected=8).mean is None
    assert rank([summarise_entry("team", [], expected=8)])[0].note == "incomplete: 0 of 8 judgements"


@given(st.lists(st.tuples(st.floats(1, 10), st.booleans(), st.booleans()), max_size=12))
def test_ranks_never_fall_while_means_rise_and_unranked_come_last(
    values: list[tuple[float, bool, bool]],
) -> None:
    entries = [
        Entry(
            name=f"t{i}",
            mean=mean,
            low=mean - 0.5,
            high=mean + 0.5,
            judged=8 if is_complete else 3,
            expected=8,
            qualified=qualified,
        )
        for i, (mean, is_complete, qualified) in enumerate(values)
    ]
    standings = rank(entries)
    ranks = [standing.rank for standing in standings]
    ranked = [rank for rank in ranks if rank is not None]
    assert ranks == ranked + [None] * (len(ranks) - len(ranked))
    assert ranked == sorted(ranked)
    assert len(ranked) == sum(is_complete and qualified for _, is_complete, qualified in values)
