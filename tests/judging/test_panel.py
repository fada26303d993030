"""A panel averages only what is calibrated; pairs are asked in both orders; the command line joins it all."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from smalltale.cli.judge import judge_hand_in
from smalltale.errors import SmalltaleError
from smalltale.files import read_json, write_json
from smalltale.judging.config import JudgingConfig
from smalltale.judging.cost import estimate, price_of
from smalltale.judging.judge import Question, Sampling, ScriptedJudge
from smalltale.judging.judgement import Judgement
from smalltale.judging.named import open_judges
from smalltale.judging.pairs import Pair, compare_pairs
from smalltale.judging.panel import Calibration, panel_scores, read_calibration
from smalltale.judging.rubric import load_rubric
from smalltale.judging.versus import compare_folders, duel
from smalltale.submission import Completion, write_submission


def said(judge: str, sample: int, overall: float) -> Judgement:
    return Judgement(
        prompt="p", sample=sample, judge=judge, rubric="r", rubric_hash="h", state="ok", overall=overall
    )


def calibration(judge: str, mean: float, sd: float, weight: float = 1.0) -> Calibration:
    return Calibration(
        judge=judge, endpoint="e", rubric_hash="h", mean=mean, sd=sd, weight=weight, qualified=True
    )


def test_a_mild_and_a_harsh_judge_meet_on_one_scale() -> None:
    judgements = [said("mild", 0, 9.0), said("harsh", 0, 4.0), said("mild", 1, 8.0), said("harsh", 1, 2.0)]
    scales = {"mild": calibration("mild", 8.0, 1.0), "harsh": calibration("harsh", 2.0, 2.0)}
    first, second = panel_scores(judgements, scales)
    assert (first.score, first.disagreement) == (7.5, 0.0)
    assert second.score == 5.5
    assert panel_scores(judgements, {"mild": scales["mild"]}) == [], (
        "an uncalibrated judge has no place in a mean"
    )


def test_a_constant_judge_calibrates_nothing(tmp_path: Path) -> None:
    write_json(tmp_path / "q.json", {"kind": "qualification", "gold_sd": 0.0})
    assert read_calibration(tmp_path / "q.json") is None


def test_a_verdict_that_follows_the_order_is_a_tie_and_a_steady_one_a_win() -> None:
    def script(question: Question) -> str:
        first, second = re.split(r"\n=== \w+ ===\n", question.messages[1].content)[2:4]
        better = "first" if "coin" in first + second else "first" if len(first) > len(second) else "second"
        return json.dumps({"check": question.nonce, "reasons": "Because.", "better": better})

    pairs = [
        Pair(prompt="p", one="a long story", other="short"),
        Pair(prompt="p", one="a coin", other="another"),
    ]
    steady, swayed = compare_pairs(pairs, ScriptedJudge(script), load_rubric("pairwise"), Sampling(), "salt")
    assert (steady.value, steady.order_decided) == (1.0, False)
    assert (swayed.value, swayed.order_decided) == (0.5, True)


def test_a_price_and_an_estimate() -> None:
    name, price = price_of("http://h/v1#m=1.5/6")
    assert name == "http://h/v1#m"
    (found,) = estimate(["x" * 400] * 10, [name], load_rubric("paper"), {name: price})
    assert found.calls == 10
    assert found.dollars == pytest.approx((found.input_tokens * 1.5 + found.output_tokens * 6) / 1e6)
    with pytest.raises(SmalltaleError, match="--price"):
        price_of("m=cheap")


def test_two_judged_entries_compare_and_the_page_escapes_their_words(tmp_path: Path) -> None:
    for team in ("a", "b"):
        rows = [Completion(f"Prompt {n}", f"<script>{team}</script> {n}.") for n in range(6)]
        write_submission(tmp_path / team / "s.csv", rows, {"team": team})
        assert judge_hand_in(tmp_path / team / "s.csv", ["scripted"], "paper", tmp_path / f"j{team}") == 6
    page = (tmp_path / "ja" / "report.html").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "rank nothing" in page
    assert "src=" not in page
    found = compare_folders(tmp_path / "ja", tmp_path / "jb")
    assert found["overall"].prompts == 6
    assert read_json(tmp_path / "ja" / "meta.json")["qualified"] is False
    with open_judges(["scripted"]) as (judge,):
        asked = duel(tmp_path / "ja", tmp_path / "jb", judge, load_rubric("pairwise"), JudgingConfig())
    assert (asked.pairs, asked.unanswered, asked.calls) == (6, 0, 12)
    assert 0 <= asked.share.mean <= 1


def test_a_qualification_of_this_rubric_lets_a_judge_rank_and_calibrates_it(tmp_path: Path) -> None:
    write_submission(tmp_path / "s.csv", [Completion(f"Prompt {n}", f"Story {n}.") for n in range(4)], {})
    passed = {"kind": "qualification", "judge": "scripted", "endpoint": "scripted:", "qualified": True}
    scale = {"gold_mean": 5.0, "gold_sd": 2.0, "agreement": 0.9}
    for name, rubric_hash, expected in (
        ("right", load_rubric("paper").hash, True),
        ("other", "0" * 16, False),
    ):
        write_json(tmp_path / f"{name}.json", {**passed, **scale, "rubric_hash": rubric_hash})
        out = tmp_path / name
        judge_hand_in(
            tmp_path / "s.csv", ["scripted"], "paper", out, qualifications=[tmp_path / f"{name}.json"]
        )
        assert read_json(out / "meta.json")["qualified"] is expected
        page = (out / "report.html").read_text(encoding="utf-8")
        assert ("Panel, each judge" in page) is expected
        assert ("rank nothing" in page) is not expected


def test_a_folder_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    write_submission(tmp_path / "s.csv", [Completion("a", "b")], {})
    write_json(tmp_path / "out" / "meta.json", {"kind": "corpus"})
    with pytest.raises(SmalltaleError, match="another kind"):
        judge_hand_in(tmp_path / "s.csv", ["scripted"], "paper", tmp_path / "out")
