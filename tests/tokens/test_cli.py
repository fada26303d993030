"""The commands of `smalltale tokens`, from a corpus folder to a token folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from smalltale.cli.tokens import add_to
from smalltale.errors import RecipeError
from smalltale.files import read_json
from smalltale.tokens.token_folder import read_tokens
from smalltale.tokens.tokenizer import Tokenizer


def run(*words: str | Path) -> str:
    """Return the output of `smalltale tokens …`."""
    app = typer.Typer()
    add_to(app)
    result = CliRunner().invoke(app, ["tokens", *map(str, words)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_a_corpus_is_tokenized_from_training_to_ids(
    fable: list[str], write_corpus: Any, tmp_path: Path
) -> None:
    corpus, folder = write_corpus(fable, fable[:20]), tmp_path / "tokenizer"
    words = ("--set", "tokenizer.vocabulary=500", "--set", "tokenizer.kind=wordpiece")
    assert "500 tokens" in run("train", corpus, "--out", folder, *words)
    assert read_json(folder / "meta.json")["recipe"]["tokenizer"]["kind"] == "wordpiece"

    converted = tmp_path / "converted"
    assert "WordPiece, 500 tokens" in run("convert", folder, "--out", converted)
    assert Tokenizer.load(converted).hash == Tokenizer.load(folder).hash

    assert "tokens of 420 stories" in run(
        "encode", corpus, "--tokenizer", converted, "--out", tmp_path / "ids"
    )
    assert read_tokens(tmp_path / "ids").meta["tokenizer_hash"] == Tokenizer.load(folder).hash


def test_a_sweep_prints_a_table_for_each_weight_class(
    fable: list[str], write_corpus: Any, tmp_path: Path
) -> None:
    corpus = write_corpus(fable[:100], fable[:10])
    output = run("sweep", corpus, "--out", tmp_path / "sweep", "--sizes", "300,400")
    assert all(f"{name}: recommended" in output for name in ("small", "medium", "large"))
    with pytest.raises(RecipeError, match="not a list of integers"):
        run("sweep", corpus, "--out", tmp_path / "sweep", "--sizes", "300;400")
