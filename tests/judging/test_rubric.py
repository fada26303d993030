"""Rubrics are validated, and answers are valid or rejected."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalltale.judging.judge import Reply, TokenChoice
from smalltale.judging.judgement import Answer, InvalidAnswer, parse_answer
from smalltale.judging.logprob_scores import weighted_scores
from smalltale.judging.rubric import RubricError, load_rubric, parse_rubric, rubric_names
from smalltale.judging.run import require_scoring_rubric

PAPER = load_rubric("paper")
RIGHT: dict[str, Any] = {
    "check": "123456",
    "assessment": "Good.",
    "grammar": 7,
    "creativity": 6,
    "consistency": 8,
    "plot": 5,
    "age": "C",
}

BASE = """
name: mine
version: 1
kind: scores
about: a test
fields:
  plot: {kind: score}
system: |-
  plot: does it make sense
task: "{delimiter}{prompt}{completion}{keys}{nonce}"
"""


def test_every_shipped_rubric_opens_and_no_two_share_a_hash() -> None:
    rubrics = [load_rubric(name) for name in rubric_names()]
    assert {rubric.name for rubric in rubrics} == {"paper", "strict", "pairwise"}
    assert len({rubric.hash for rubric in rubrics}) == 3


def test_a_change_of_words_changes_the_hash() -> None:
    assert parse_rubric(BASE, "a").hash == parse_rubric(BASE, "b").hash
    assert parse_rubric(BASE.replace("make sense", "end"), "a").hash != parse_rubric(BASE, "a").hash


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("plot: {kind: score}", "plot: {kind: words}", "no field of kind score"),
        ("plot: {kind: score}", "plot: {kind: score, low: 9, high: 3}", "low must be below high"),
        (
            "plot: {kind: score}",
            "plot: {kind: score}\n  grammar: {kind: score}",
            "neither system nor task asks for",
        ),
        ("plot: {kind: score}", "plot: {kind: score}\n  check: {kind: words}", "which the nonce takes"),
        ("plot: {kind: score}", "plot: {kind: number}", "fields.plot.kind"),
        ("  plot: does", "  grammar: is it right\n  plot: does", "asks for 'grammar', which fields lacks"),
        ("{nonce}", "", "check nonce"),
        ("{nonce}", "{nonce}{story}", "check story"),
        ("about: a test", "abuot: a test", "unknown key 'abuot'"),
        ("name: mine", "name: [", "not YAML"),
        ("kind: scores", "kind: pairwise", "needs the field better"),
    ],
)
def test_a_broken_rubric_says_what_is_wrong(old: str, new: str, message: str) -> None:
    with pytest.raises(RubricError, match=message.replace("[", r"\[")):
        parse_rubric(BASE.replace(old, new, 1), "mine")


def test_an_unknown_rubric_suggests_the_nearest_name() -> None:
    with pytest.raises(RubricError, match="did you mean 'paper'"):
        load_rubric("papr")
    with pytest.raises(RubricError, match="compares pairs"):
        require_scoring_rubric(load_rubric("pairwise"))


def test_the_overall_score_is_the_weighted_mean() -> None:
    assert PAPER.overall({"grammar": 7, "creativity": 6, "consistency": 8, "plot": 5}) == 6.5


def test_a_right_answer_is_read() -> None:
    answer = parse_answer(json.dumps(RIGHT), PAPER, "123456")
    assert isinstance(answer, Answer)
    assert answer.scores["consistency"] == 8.0
    assert answer.choices == {"age": "C"}


@pytest.mark.parametrize(
    "changed",
    ["7-8", "8,5", "85/100", "7", 11, 0, -3, 7.5, True, None, [7], {"score": 7}, 1e400, 10**400],
)
def test_an_invalid_score_is_never_corrected(changed: Any) -> None:
    answer = parse_answer(json.dumps({**RIGHT, "plot": changed}), PAPER, "123456")
    assert isinstance(answer, InvalidAnswer)


@pytest.mark.parametrize("age", ["D: 8-9", "c", "", None, "G"])
def test_an_age_is_a_letter_or_absent(age: Any) -> None:
    assert isinstance(parse_answer(json.dumps({**RIGHT, "age": age}), PAPER, "123456"), InvalidAnswer)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json_is_read_without_an_exception(value: Any) -> None:
    assert isinstance(parse_answer(json.dumps(value), PAPER, "123456"), InvalidAnswer)


@given(st.text())
def test_any_text_is_read_without_an_exception(text: str) -> None:
    assert isinstance(parse_answer(text, PAPER, "123456"), InvalidAnswer)


def test_deep_nesting_is_an_invalid_answer() -> None:
    assert isinstance(parse_answer("[" * 200_000, PAPER, "123456"), InvalidAnswer)


def test_marks_are_weighted_by_the_judges_own_probabilities() -> None:
    rubric = parse_rubric(BASE, "mine")
    top = {"7": -0.693147, "8": -1.386294, "6": -1.386294}
    tokens = tuple(
        TokenChoice(token=token, top=top if token == "7" else {})
        for token in ('{"check":"1","plot":', "7", "}")
    )
    reply = Reply(text='{"check":"1","plot":7}', tokens=tokens)
    assert weighted_scores(reply, rubric)["plot"] == pytest.approx(7.0)
    split = tuple(
        TokenChoice(token=token, top={"1": -0.1, "9": -3.0}) for token in ('{"check":"1","plot":', "1", "}")
    )
    assert weighted_scores(Reply(text='{"check":"1","plot":1}', tokens=split), rubric) == {}
    assert weighted_scores(Reply(text=reply.text), rubric) == {}
