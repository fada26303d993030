"""The vocabulary sweep: the cost of a size in each weight class, and the recommended size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from smalltale.errors import RecipeError
from smalltale.files import read_json
from smalltale.rules import Rules
from smalltale.tokens.tokenizer import TokenizerConfig
from smalltale.tokens.vocabulary_sweep import ModelShape, compare_vocabularies, sweep_vocabularies

MEASURED = {1024: 3.1, 2048: 3.6, 4096: 4.0, 8192: 4.15, 32768: 4.25, 50257: 4.26}


def test_a_row_has_the_widest_model_within_the_budget() -> None:
    shape = ModelShape(layers=8, width=512)
    rows = {
        (row.weight_class, row.vocabulary): row for row in compare_vocabularies(MEASURED, shape, Rules()).rows
    }
    row = rows["small", 32768]
    # 7 layers of 448 and the embedding are 31.5M weights, over the budget; 6 of 384 fit.
    assert (row.layers, row.width) == (6, 384)
    assert row.parameters == 32768 * 384 + 6 * 12 * 384**2
    assert row.embedding_share == pytest.approx(32768 * 384 / 30_000_000)
    assert row.flops_per_byte == pytest.approx((6 * row.parameters + 12 * 6 * 384 * 512) / 4.25)
    for row in rows.values():
        assert row.parameters <= Rules().weight_class(row.weight_class).max_parameters


def test_a_small_weight_class_gets_a_small_vocabulary() -> None:
    result = compare_vocabularies(MEASURED, ModelShape(), Rules())
    assert result.recommended["small"] <= 8192
    assert result.recommended["small"] <= result.recommended["large"]


def test_a_vocabulary_over_the_budget_has_no_row_and_no_fitting_one_is_an_error() -> None:
    result = compare_vocabularies({4096: 4.0, 500_000: 4.3}, ModelShape(), Rules())
    assert [row.vocabulary for row in result.rows if row.weight_class == "small"] == [4096]
    with pytest.raises(RecipeError, match="choose smaller --sizes"):
        compare_vocabularies({500_000: 4.3}, ModelShape(), Rules())


def test_a_sweep_writes_its_table_and_its_plot(fable: list[str], write_corpus: Any, tmp_path: Path) -> None:
    corpus = write_corpus(fable, fable[:30])
    result = sweep_vocabularies(
        corpus, [300, 500], TokenizerConfig(), ModelShape(width=256), tmp_path / "sweep", {"name": "test"}
    )
    saved = read_json(tmp_path / "sweep" / "sweep.json")
    assert saved["recommended"] == result.recommended
    assert len(saved["rows"]) == len(result.rows) == 6
    small, large = result.rows[:2]
    assert small.bytes_per_token < large.bytes_per_token
    assert (tmp_path / "sweep" / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert read_json(tmp_path / "sweep" / "meta.json")["kind"] == "sweep"
