"""`smalltale tune`: ranges, pruning, and a study that several processes share."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from smalltale.cli import build_app
from smalltale.corpus.build import build_corpus
from smalltale.corpus.config import CorpusConfig
from smalltale.corpus.corpus_folder import read_corpus
from smalltale.errors import FileProblem, RecipeError, SmalltaleError
from smalltale.experiments.tune import open_study, parse_range, run_trials
from smalltale.tokens.encode import encode_corpus
from smalltale.tokens.tokenizer import TokenizerConfig, train_tokenizer

RATE = "training.optim.matrix_rate=log:0.005:0.05"


def parabola_trial(number: int, overrides: object, on_evaluation: object) -> float:
    """A trial without training: bits per byte grow with the distance of the rate from 0.02; three evaluations."""
    (override,) = overrides  # type: ignore[misc]
    bits = 1 + abs(float(override.partition("=")[2]) - 0.02) * 10
    for _ in range(3):
        on_evaluation(None, SimpleNamespace(best_bits_per_byte=bits))  # type: ignore[operator]
    return bits


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_a_search_finds_the_minimum_prunes_and_resumes(tmp_path: Path, kind: str) -> None:
    storage = str(tmp_path / "study.journal") if kind == "journal" else f"sqlite:///{tmp_path / 'study.db'}"
    ranges = [parse_range(RATE)]
    run_trials(open_study("s", storage), ranges, 4, parabola_trial)
    study = open_study("s", storage)
    assert len(study.trials) == 4
    run_trials(study, ranges, 14, parabola_trial)
    assert len(study.trials) == 14
    assert study.best_value < 1.1
    assert any(trial.value is None or trial.state.name == "PRUNED" for trial in study.trials)
    run_trials(study, ranges, 14, parabola_trial)
    assert len(study.trials) == 14


def test_the_trial_of_a_killed_process_is_run_again(tmp_path: Path) -> None:
    storage = str(tmp_path / "study.journal")
    code = (
        "import os, sys; from smalltale.experiments.tune import *\n"
        f"run_trials(open_study('s', sys.argv[1]), [parse_range({RATE!r})], 3, lambda *_: os._exit(9))"
    )
    assert subprocess.run([sys.executable, "-c", code, storage]).returncode == 9
    study = open_study("s", storage)
    (killed,) = study.trials
    run_trials(study, [parse_range(RATE)], 3, parabola_trial)
    states = [trial.state.name for trial in study.trials]
    assert states == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert study.trials[1].params == killed.params


def test_a_trial_that_diverges_is_dropped_and_the_search_continues(tmp_path: Path) -> None:
    def fail_first_trial(number: int, *arguments: object) -> float:
        if number == 0:
            raise SmalltaleError("a loss that is not a number")
        return parabola_trial(number, *arguments)

    study = open_study("s", str(tmp_path / "study.journal"))
    run_trials(study, [parse_range(RATE)], 3, fail_first_trial)
    assert study.trials[0].user_attrs["trouble"] == "a loss that is not a number"
    assert study.best_trial.number > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training.seed", "not of the form"),
        ("training.seed=wild:1:2", "not of the form"),
        ("training.seed=int:5:2", "not below"),
        ("training.seed=int:1.5:2", "int:LOW:HIGH"),
        ("training.dropout=log:0:0.5", "begins above 0"),
        ("training.device=choice:cpu,,cuda", "empty or repeated"),
    ],
)
def test_a_range_that_cannot_be_searched_is_explained(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_range(text)


def test_a_storage_that_cannot_be_opened_is_explained(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match="cannot be opened"):
        open_study("s", f"sqlite:///{tmp_path}/missing/study.db")


def run_tune(*arguments: str) -> None:
    """Run the command in this process."""
    build_app()(["tune", "demo", *arguments], standalone_mode=False)


@pytest.mark.parametrize(
    ("search_range", "message"),
    [
        ("training.optim.matrix_rat=log:0.1:0.2", "matrix_rate"),
        ("corpus.stories=int:1:2", "model and training"),
        ("training.dropout=float:0:2", "below 1"),
    ],
)
def test_a_key_or_bound_that_the_recipe_does_not_accept_is_refused_first(
    tmp_path: Path, search_range: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        run_tune(
            "--search",
            search_range,
            "--tokens",
            str(tmp_path),
            "--tokenizer",
            str(tmp_path),
            "--out",
            str(tmp_path / "out"),
        )
    assert not (tmp_path / "out").exists()


def test_the_command_trains_trials_and_writes_the_best_overrides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_corpus(CorpusConfig(stories=100, validation_share=0.1), tmp_path / "corpus")
    texts = (document.text for document in read_corpus(tmp_path / "corpus", "train"))
    train_tokenizer(texts, TokenizerConfig(vocabulary=300)).save(tmp_path / "tokenizer", {"source": "test"})
    encode_corpus(tmp_path / "corpus", tmp_path / "tokenizer", tmp_path / "tokens")
    settings = "model.width=32 model.heads=2 model.layers=1 training.batch_tokens=512 training.compile=false "
    settings += "training.device=cpu training.schedule.minutes=0 training.schedule.steps=4 training.validation_stories=3"
    arguments = [word for setting in settings.split() for word in ("--set", setting)]
    out = tmp_path / "out"
    for name in ("tokens", "tokenizer", "out"):
        arguments += [f"--{name}", str(tmp_path / name)]
    run_tune(*arguments, "--search", RATE, "--search", "training.dropout=choice:0.0,0.1", "--trials", "2")
    best = tomllib.loads((out / "best.toml").read_text())
    assert 0.005 <= best["training"]["optim"]["matrix_rate"] <= 0.05
    assert best["training"]["dropout"] in (0.0, 0.1)
    assert (out / "trial-00001" / "model.safetensors").exists()
    assert "best.toml" in capsys.readouterr().out
