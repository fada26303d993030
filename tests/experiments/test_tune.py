"""`smalltale tune`: ranges, pruning, a study that several processes share."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from smalltale.cli import build_app
from smalltale.corpus.build import CorpusConfig, build_corpus, read_corpus
from smalltale.errors import FileProblem, RecipeError, SmalltaleError
from smalltale.experiments.tune import open_study, parse_range, search
from smalltale.tokens.encode import encode_corpus
from smalltale.tokens.tokenizer import TokenizerConfig, train_tokenizer

RATE = "training.optim.matrix_rate=log:0.005:0.05"


def bowl(number: int, overrides: object, watch: object) -> float:
    """A trial without training: the nearer the rate to 0.02, the better, told in three looks."""
    (override,) = overrides  # type: ignore[misc]
    bits = 1 + abs(float(override.partition("=")[2]) - 0.02) * 10
    for _ in range(3):
        watch(None, SimpleNamespace(best_bits_per_byte=bits))  # type: ignore[operator]
    return bits


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_a_search_finds_the_bowl_prunes_and_goes_on_where_it_stopped(tmp_path: Path, kind: str) -> None:
    storage = str(tmp_path / "study.journal") if kind == "journal" else f"sqlite:///{tmp_path / 'study.db'}"
    ranges = [parse_range(RATE)]
    search(open_study("s", storage), ranges, 4, bowl)
    again = open_study("s", storage)
    assert len(again.trials) == 4
    search(again, ranges, 14, bowl)
    assert len(again.trials) == 14
    assert again.best_value < 1.1
    assert any(each.value is None or each.state.name == "PRUNED" for each in again.trials)
    search(again, ranges, 14, bowl)
    assert len(again.trials) == 14


def test_a_killed_processs_trial_is_run_again(tmp_path: Path) -> None:
    storage = str(tmp_path / "study.journal")
    code = (
        "import os, sys; from smalltale.experiments.tune import *\n"
        f"search(open_study('s', sys.argv[1]), [parse_range({RATE!r})], 3, lambda *_: os._exit(9))"
    )
    assert subprocess.run([sys.executable, "-c", code, storage]).returncode == 9
    study = open_study("s", storage)
    (left,) = study.trials
    search(study, [parse_range(RATE)], 3, bowl)
    states = [each.state.name for each in study.trials]
    assert states == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert study.trials[1].params == left.params


def test_a_trial_that_diverges_is_dropped_and_the_search_goes_on(tmp_path: Path) -> None:
    def failing(number: int, *more: object) -> float:
        if number == 0:
            raise SmalltaleError("a loss that is not a number")
        return bowl(number, *more)

    study = open_study("s", str(tmp_path / "study.journal"))
    search(study, [parse_range(RATE)], 3, failing)
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


def tune(*words: str) -> None:
    """The verb, in this process."""
    build_app()(["tune", "demo", *words], standalone_mode=False)


@pytest.mark.parametrize(
    ("search_", "message"),
    [
        ("training.optim.matrix_rat=log:0.1:0.2", "matrix_rate"),
        ("corpus.stories=int:1:2", "model and training"),
        ("training.dropout=float:0:2", "below 1"),
    ],
)
def test_a_key_or_bound_the_recipe_does_not_take_is_refused_first(
    tmp_path: Path, search_: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        tune(
            "--search",
            search_,
            "--tokens",
            str(tmp_path),
            "--tokenizer",
            str(tmp_path),
            "--out",
            str(tmp_path / "out"),
        )
    assert not (tmp_path / "out").exists()


def test_the_verb_trains_trials_and_writes_the_best_overrides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_corpus(CorpusConfig(stories=100, validation_share=0.1), tmp_path / "corpus")
    texts = (each.text for each in read_corpus(tmp_path / "corpus", "train"))
    train_tokenizer(texts, TokenizerConfig(vocabulary=300)).save(tmp_path / "tokenizer", {"made": "here"})
    encode_corpus(tmp_path / "corpus", tmp_path / "tokenizer", tmp_path / "tokens")
    fixed = "model.width=32 model.heads=2 model.layers=1 training.batch_tokens=512 training.compile=false "
    fixed += "training.device=cpu training.schedule.minutes=0 training.schedule.steps=4 training.validation_stories=3"
    words = [part for each in fixed.split() for part in ("--set", each)]
    out = tmp_path / "out"
    for name in ("tokens", "tokenizer", "out"):
        words += [f"--{name}", str(tmp_path / name)]
    tune(*words, "--search", RATE, "--search", "training.dropout=choice:0.0,0.1", "--trials", "2")
    best = tomllib.loads((out / "best.toml").read_text())
    assert 0.005 <= best["training"]["optim"]["matrix_rate"] <= 0.05
    assert best["training"]["dropout"] in (0.0, 0.1)
    assert (out / "trial-00001" / "model.safetensors").exists()
    assert "best.toml" in capsys.readouterr().out
