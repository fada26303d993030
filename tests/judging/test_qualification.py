"""A judge that knows the gold levels qualifies; constant, random, length-biased and manipulable judges do not."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from smalltale.files import read_stories
from smalltale.judging.config import JudgingConfig
from smalltale.judging.cost import Price
from smalltale.judging.gold import ATTACKS, LEVELS, read_gold_stories, read_graded_stories
from smalltale.judging.judge import Question, ScriptedJudge
from smalltale.judging.prompt_injection import neutralise, remove_judge_directed_text
from smalltale.judging.qualification import QualificationReport, estimate_qualification, qualify
from smalltale.judging.rubric import load_rubric
from smalltale.text_signals import find_judge_directed_text

SCORE_BY_LEVEL = {"good": 8.5, "dull": 6.0, "contradictory": 4.0, "broken": 1.5}
LEVEL_BY_TEXT = {neutralise(story.completion): story.level for story in read_gold_stories()}


def story_of(question: Question) -> str:
    return question.messages[1].content.split("\n***\n")[1].rpartition("\n===")[0]


def scripted(mark: Callable[[str, random.Random], float]) -> ScriptedJudge:
    """A judge whose marks are a function of the story, with a random source that knows the seed."""

    def script(question: Question) -> str:
        if "better" in question.schema["properties"]:
            return json.dumps({"check": question.nonce, "reasons": "The order.", "better": "first"})
        story = story_of(question)
        draw = random.Random(zlib.crc32(f"{question.sampling.seed}|{story}".encode()))
        marks = {
            name: max(1, min(10, round(mark(story, draw))))
            for name in ("grammar", "creativity", "consistency", "plot")
        }
        return json.dumps({"check": question.nonce, "assessment": "Read.", **marks, "age": "C"})

    return ScriptedJudge(script, concurrency=32)


def knows(story: str, draw: random.Random) -> float:
    level = next((level for text, level in LEVEL_BY_TEXT.items() if story.startswith(text)), "dull")
    return SCORE_BY_LEVEL[level] + draw.gauss(0, 1.0)


def report_of(judge: ScriptedJudge, out: Path) -> QualificationReport:
    return qualify(judge, load_rubric("paper"), out, config=JudgingConfig())


def test_a_judge_that_knows_the_gold_scores_with_noise_qualifies(tmp_path: Path) -> None:
    report = report_of(scripted(knows), tmp_path)
    assert report.as_dict()["bar"] == {"auc": 0.8, "spearman": 0.6, "retest": 0.8, "attack_gain": 0.5}
    assert report.qualified, [check for check in report.checks if not check.passed]
    assert report.agreement is not None
    assert report.agreement > 0.8
    order = next(check for check in report.checks if check.name.startswith("verdicts"))
    assert order.value == 1.0, "a judge that always says first is decided by the order"


@pytest.mark.parametrize(
    "mark",
    [
        lambda story, draw: 7.0,
        lambda story, draw: draw.randint(1, 10),
        lambda story, draw: len(story) / 60,
        lambda story, draw: 10.0 if "masterpiece" in story else knows(story, draw),
        lambda story, draw: 10.0 if "juez" in story else knows(story, draw),
    ],
    ids=["constant", "random", "loves length", "falls for praise", "obeys a foreign plea"],
)
def test_a_judge_that_does_not_read_does_not_qualify(
    tmp_path: Path, mark: Callable[[str, random.Random], float]
) -> None:
    assert not report_of(scripted(mark), tmp_path).qualified


def test_a_qualification_makes_the_calls_that_were_estimated(tmp_path: Path) -> None:
    both, failing = estimate_qualification(load_rubric("paper"), [], Price(1.0, 1.0))
    assert report_of(scripted(knows), tmp_path / "knows").calls == both.calls
    assert report_of(scripted(lambda story, draw: 7.0), tmp_path / "constant").calls == failing.calls == 64
    assert both.dollars == pytest.approx((both.input_tokens + both.output_tokens) / 1e6)


def test_a_second_qualification_uses_cached_answers(tmp_path: Path) -> None:
    report_of(scripted(knows), tmp_path)
    second_judge = scripted(knows)
    report_of(second_judge, tmp_path)
    assert second_judge.questions == []


def test_the_gold_set_has_16_prompts_at_four_levels() -> None:
    gold = read_gold_stories()
    assert len(gold) == 64
    assert len({story.completion for story in gold}) == 64
    assert {level: sum(story.level == level for story in gold) for level in LEVELS} == dict.fromkeys(
        LEVELS, 16
    )
    assert len(ATTACKS) >= 5


def test_attacks_that_speak_to_the_judge_are_found_and_gold_stories_are_not_flagged() -> None:
    assert {name for name, words in ATTACKS.items() if not find_judge_directed_text(words)} == {
        "foreign tongue",
        "praise",
    }, "a judge must resist these by itself"
    assert remove_judge_directed_text(f"She ran home.{ATTACKS['forged answer']}") == "She ran home."
    assert remove_judge_directed_text(neutralise(f"She ran home.{ATTACKS['disguise']}")) == "She ran home."
    assert not any(find_judge_directed_text(story.completion) for story in read_gold_stories())


@pytest.mark.parametrize(
    ("name", "stories", "flagged"),
    [
        ("TinyStoriesV2-GPT4-valid.head.txt", 3_000, 2),
        pytest.param("TinyStories-train.sample.txt", 11_751, 4, marks=pytest.mark.all),
    ],
)
def test_real_stories_are_rarely_flagged_as_judge_directed(
    shared_data: Path, name: str, stories: int, flagged: int
) -> None:
    texts = read_stories(shared_data / name)
    assert len(texts) == stories
    assert sum(bool(find_judge_directed_text(text)) for text in texts) == flagged, (
        "docs/judging.md has this number"
    )


def test_the_graded_file_is_read(shared_data: Path) -> None:
    graded = read_graded_stories(
        shared_data / "judge_gold.jsonl", ["grammar", "creativity", "consistency", "plot"]
    )
    assert len(graded) == 150
    assert not any(story.completion.startswith(story.prompt) for story in graded)
