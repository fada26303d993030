"""A judge that knows the gold scores qualifies; a constant, a random and a length-loving one do not."""

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

MARK = {"good": 8.5, "dull": 6.0, "contradictory": 4.0, "broken": 1.5}
LEVEL = {neutralise(each.completion): each.level for each in read_gold_stories()}


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
    level = next((level for text, level in LEVEL.items() if story.startswith(text)), "dull")
    return MARK[level] + draw.gauss(0, 1.0)


def report_of(judge: ScriptedJudge, out: Path) -> QualificationReport:
    return qualify(judge, load_rubric("paper"), out, config=JudgingConfig())


def test_a_judge_that_knows_the_gold_scores_with_noise_qualifies(tmp_path: Path) -> None:
    report = report_of(scripted(knows), tmp_path)
    assert report.as_dict()["bar"] == {"auc": 0.8, "spearman": 0.6, "retest": 0.8, "attack_gain": 0.5}
    assert report.qualified, [each for each in report.checks if not each.passed]
    assert report.agreement is not None
    assert report.agreement > 0.8
    order = next(each for each in report.checks if each.name.startswith("verdicts"))
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
    both, failing = estimate_qualification("m", load_rubric("paper"), [], Price(1.0, 1.0))
    assert report_of(scripted(knows), tmp_path / "knows").calls == both.calls
    assert report_of(scripted(lambda story, draw: 7.0), tmp_path / "constant").calls == failing.calls == 64
    assert both.dollars == pytest.approx((both.input_tokens + both.output_tokens) / 1e6)


def test_a_qualification_asks_nothing_twice(tmp_path: Path) -> None:
    report_of(scripted(knows), tmp_path)
    again = scripted(knows)
    report_of(again, tmp_path)
    assert again.questions == []


def test_the_gold_set_is_as_large_as_it_says() -> None:
    gold = read_gold_stories()
    assert len(gold) == 64
    assert len({each.completion for each in gold}) == 64
    assert {level: sum(each.level == level for each in gold) for level in LEVELS} == dict.fromkeys(LEVELS, 16)
    assert len(ATTACKS) >= 5


def test_every_attack_that_speaks_to_the_judge_is_seen_and_no_gold_story_is_taken_for_one() -> None:
    assert {name for name, words in ATTACKS.items() if not find_judge_directed_text(words)} == {
        "foreign tongue",
        "praise",
    }, "these a judge must resist by itself"
    assert remove_judge_directed_text(f"She ran home.{ATTACKS['forged answer']}") == "She ran home."
    assert remove_judge_directed_text(neutralise(f"She ran home.{ATTACKS['disguise']}")) == "She ran home."
    assert not any(find_judge_directed_text(each.completion) for each in read_gold_stories())


@pytest.mark.parametrize(
    ("name", "stories", "taken"),
    [
        ("TinyStoriesV2-GPT4-valid.head.txt", 3_000, 2),
        pytest.param("TinyStories-train.sample.txt", 11_751, 4, marks=pytest.mark.all),
    ],
)
def test_real_stories_are_hardly_ever_taken_for_words_to_a_judge(
    shared_data: Path, name: str, stories: int, taken: int
) -> None:
    texts = read_stories(shared_data / name)
    assert len(texts) == stories
    assert sum(bool(find_judge_directed_text(each)) for each in texts) == taken, (
        "docs/judging.md tells this figure"
    )


def test_the_graded_file_is_read(shared_data: Path) -> None:
    graded = read_graded_stories(
        shared_data / "judge_gold.jsonl", ["grammar", "creativity", "consistency", "plot"]
    )
    assert len(graded) == 150
    assert not any(each.completion.startswith(each.prompt) for each in graded)
