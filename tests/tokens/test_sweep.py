"""A sweep shows what a vocabulary costs in each weight class, and recommends one by arithmetic that can be checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from smalltale.errors import RecipeError
from smalltale.files import read_json
from smalltale.rules import Rules
from smalltale.tokens.sweep import ModelShape, compare, sweep
from smalltale.tokens.tokenizer import TokenizerConfig

MEASURED = {1024: 3.1, 2048: 3.6, 4096: 4.0, 8192: 4.15, 32768: 4.25, 50257: 4.26}


def test_a_row_is_the_arithmetic_of_its_budget() -> None:
    shape = ModelShape(layers=8, width=512)
    rows = {(row.weight_class, row.vocabulary): row for row in compare(MEASURED, shape, Rules()).rows}
    row = rows["small", 32768]
    # 7 layers of 448 and the embedding are 31.5M weights, over the budget; 6 of 384 fit.
    assert (row.layers, row.width) == (6, 384)
    assert row.parameters == 32768 * 384 + 6 * 12 * 384**2
    assert row.embedding_share == pytest.approx(32768 * 384 / 30_000_000)
    assert row.flops_per_byte == pytest.approx((6 * row.parameters + 12 * 6 * 384 * 512) / 4.25)
    for each in rows.values():
        assert each.parameters <= Rules().weight_class(each.weight_class).max_parameters


def test_a_small_class_is_never_recommended_gpt2s_vocabulary() -> None:
    result = compare(MEASURED, ModelShape(), Rules())
    assert result.recommended["small"] <= 8192
    assert result.recommended["small"] <= result.recommended["large"]


def test_a_vocabulary_over_the_budget_is_left_out_and_none_left_is_refused() -> None:
    result = compare({4096: 4.0, 500_000: 4.3}, ModelShape(), Rules())
    assert [row.vocabulary for row in result.rows if row.weight_class == "small"] == [4096]
    with pytest.raises(RecipeError, match="choose smaller --sizes"):
        compare({500_000: 4.3}, ModelShape(), Rules())


def test_a_sweep_writes_its_table_and_its_plot(fable: list[str], write_corpus: Any, tmp_path: Path) -> None:
    corpus = write_corpus(fable, fable[:30])
    result = sweep(
        corpus, [300, 500], TokenizerConfig(), ModelShape(width=256), tmp_path / "sweep", {"name": "test"}
    )
    told = read_json(tmp_path / "sweep" / "sweep.json")
    assert told["recommended"] == result.recommended
    assert len(told["rows"]) == len(result.rows) == 6
    small, large = result.rows[:2]
    assert small.bytes_per_token < large.bytes_per_token
    assert (tmp_path / "sweep" / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert read_json(tmp_path / "sweep" / "meta.json")["kind"] == "sweep"
