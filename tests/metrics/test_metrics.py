from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.axes import Axes

from smalltale.cli.measure import write_histograms
from smalltale.errors import FileProblem
from smalltale.metrics.metrics import bleu4, compute_metrics
from smalltale.submission import Completion

TRAINED = "Mia had a small red kite and she took it up the hill one windy day. It flew high."


def test_equal_completions_overlap_completely_and_different_ones_not_at_all() -> None:
    same = compute_metrics([Completion("a", "The cat sat on a mat.")] * 2)
    assert same.rouge2_same_prompt == pytest.approx(1)
    assert same.self_bleu == pytest.approx(1)
    different = compute_metrics(
        [Completion("a", "The cat sat on a mat."), Completion("a", "Big dogs run home fast!")]
    )
    assert different.rouge2_same_prompt == 0
    assert different.distinct_2 == 1


def test_a_submission_is_compared_with_the_training_text() -> None:
    metrics = compute_metrics(
        [Completion("a", TRAINED), Completion("b", "Big dogs run home fast!")], [TRAINED]
    )
    assert (metrics.copied_words_longest, metrics.copied_share) == (19, 0)
    assert [row.copied_words for row in metrics.rows] == [19, 0]
    assert metrics.rouge2_training == 0.5
    without = compute_metrics([Completion("a", TRAINED)])
    assert without.copied_words_longest is without.rouge2_training is without.rows[0].copied_words is None


def test_shares_count_completions_that_end_and_loop() -> None:
    rows = [Completion("a", "It was a good day. It was a good day."), Completion("b", "It was a")]
    metrics = compute_metrics(rows)
    assert (metrics.ended_share, metrics.looped_share, metrics.prompts) == (0.5, 0.5, 2)
    assert metrics.rouge2_in_file == pytest.approx(2 * 2 / (9 + 2))


def test_bleu_without_common_words_is_zero() -> None:
    assert bleu4(["a", "b"], [["c", "d"]]) == 0
    assert bleu4([], [["c"]]) == 0


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_plots_show_every_completion_and_copied_words_only_with_a_training_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    bars: list[list[float]] = []
    hist = Axes.hist
    monkeypatch.setattr(
        Axes, "hist", lambda axes, values, **more: (bars.append(values), hist(axes, values, **more))
    )
    rows = [Completion("a", TRAINED), Completion("b", "Big dogs run home fast!")]
    write_histograms(compute_metrics(rows, [TRAINED]), tmp_path / f"with{suffix}")
    assert bars == [[19, 5], [0.0, 0.0], [19.0, 0.0]]
    write_histograms(compute_metrics(rows), tmp_path / f"without{suffix}")
    assert len(bars) == 5
    first = (tmp_path / f"with{suffix}").read_bytes()
    assert first.startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")
    with pytest.raises(FileProblem, match=r"unsupported file type"):
        write_histograms(compute_metrics(rows), tmp_path / "a.bmp")
