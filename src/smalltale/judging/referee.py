"""The offline referee, experimental: a ridge regression that predicts scores from text signals, without an LLM judge.

Input: the table written by `smalltale measure --signals`. Output: predicted scores, with their cross-validated agreement.
Pitfall: it reads no story. It is valid only for stories like those it was fitted on: signals are clipped to the range of
most of those. Its scores are never mixed with a judge's and never count for ranking.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalltale.errors import FileProblem
from smalltale.files import read_json, read_jsonl, write_json
from smalltale.judging.gold import missing_keys
from smalltale.ranking.statistics import group_by_key

SIGNALS = (
    "words",
    "ended",
    "looped_sentences",
    "repeated_pairs",
    "variety",
    "new_words",
    "rare_share",
    "names_kept",
    "reference_bits",
    "nearest_before",
    "prompt_similarity",
)
"""Columns of the table, in the order of a referee's weights."""
BAND = (0.05, 0.95)
"""Signals are clipped to these quantiles of the graded stories."""
RIDGE = 30.0
"""L2 penalty on the weights of standardised signals; 10 and 60 give the same agreement."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SignalTable:
    """Signals of stories, one row per story."""

    prompts: tuple[str, ...]
    completions: tuple[str, ...]
    signals: Floats
    """(rows, signals)"""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Cross-validated agreement of predictions with a grader, for one criterion."""

    criterion: str
    held_out: str
    """How the folds were formed: by prompts or by models."""
    spearman: float
    within_model: float
    """Rank correlation within one model's stories, averaged over models; the baseline's is 0."""
    error: float
    """Root mean square error, in points."""
    guess_spearman: float | None
    """Of the baseline, a model's mean score; None if folds are models, which the baseline has not seen."""
    guess_error: float

    @property
    def beats_baseline(self) -> bool:
        return (
            self.spearman > max(0.0, self.guess_spearman or 0.0)
            and self.error < self.guess_error
            and self.within_model > 0
        )


@dataclass(frozen=True, kw_only=True)
class Referee:
    """Weights per criterion for clipped, standardised signals."""

    source: str
    """The file it was fitted on."""
    stories: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    weights: Mapping[str, tuple[float, ...]]
    """By criterion; the first is the intercept, the score of an average story."""
    agreement: tuple[Agreement, ...] = ()

    def predict(self, signals: Floats) -> dict[str, Floats]:
        """Predicted scores (rows,) by criterion, from 1 to 10; `overall` is their mean. signals: (rows, signals)."""
        clipped = np.clip(signals, self.low, self.high)
        standardised = (clipped - np.array(self.mean)) / np.array(self.sd)
        return add_overall(
            {
                name: np.clip(weights[0] + standardised @ np.array(weights[1:]), 1.0, 10.0)
                for name, weights in self.weights.items()
            }
        )

    def beats_baseline(self, criterion: str = "overall") -> bool:
        """Whether its predictions beat the baseline with prompts held out and with models held out."""
        agreements = self.agreements_on(criterion)
        return bool(agreements) and all(agreement.beats_baseline for agreement in agreements)

    def agreements_on(self, criterion: str) -> list[Agreement]:
        """The agreements of one criterion: with prompts held out and with models held out."""
        return [agreement for agreement in self.agreement if agreement.criterion == criterion]

    def outlier_share(self, signals: Floats) -> float:
        """Share of stories with more than two signals out of range; where it is high, predictions are not valid."""
        is_outside = (signals < np.array(self.low)) | (signals > np.array(self.high))
        return float((is_outside.sum(axis=1) > 2).mean())


def fit_weights(signals: Floats, scores: Mapping[str, Floats], source: str) -> Referee:
    """Fit a ridge regression of each criterion on the signals."""
    low, high = np.quantile(signals, BAND[0], axis=0), np.quantile(signals, BAND[1], axis=0)
    clipped = np.clip(signals, low, high)
    mean, sd = clipped.mean(axis=0), clipped.std(axis=0)
    sd[sd < 1e-9] = 1.0
    standardised = (clipped - mean) / sd
    gram = standardised.T @ standardised + RIDGE * np.eye(len(SIGNALS))
    weights = {
        name: (
            float(column.mean()),
            *np.linalg.solve(gram, standardised.T @ (column - column.mean())).tolist(),
        )
        for name, column in scores.items()
    }
    return Referee(
        source=source,
        stories=len(signals),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        mean=tuple(mean.tolist()),
        sd=tuple(sd.tolist()),
        weights=weights,
    )


def read_signal_table(path: Path) -> SignalTable:
    """Read a table written by `smalltale measure --signals`. Raises FileProblem."""
    rows = read_jsonl(path)
    for number, row in enumerate(rows, 1):
        if missing := missing_keys(row, ("prompt", "completion", *SIGNALS)):
            raise FileProblem(
                f"{path} row {number} has no {', no '.join(missing)}; create the table with: smalltale measure FILE --signals {path}"
            )
        for name in SIGNALS:
            if not (isinstance(row[name], int | float) and math.isfinite(row[name])):
                raise FileProblem(
                    f"{path} row {number}: {name} = {row[name]!r} is not a number; run smalltale measure again"
                )
    return SignalTable(
        prompts=tuple(row["prompt"] for row in rows),
        completions=tuple(row["completion"] for row in rows),
        signals=np.array([[float(row[name]) for name in SIGNALS] for row in rows]),
    )


def write_referee(path: Path, referee: Referee) -> None:
    """Write a referee as JSON, without any text of the graded file."""
    write_json(path, {"kind": "referee", "format": 1, "signals": SIGNALS, **asdict(referee)})


def read_referee(path: Path | None = None) -> Referee:
    """Read a referee; None: the one that ships with smalltale. Raises FileProblem."""
    path = path or Path(str(package_files("smalltale.rubrics") / "referee.json"))
    value: Any = read_json(path)
    if not isinstance(value, dict) or value.get("kind") != "referee":
        raise FileProblem(f"{path} is not a referee; create one with: smalltale judge referee fit")
    if value.get("signals") != list(SIGNALS):
        raise FileProblem(
            f"{path} was fitted on other signals; fit it again with: smalltale judge referee fit"
        )
    statistics = {name: tuple(value[name]) for name in ("low", "high", "mean", "sd")}
    return Referee(
        source=value["source"],
        stories=value["stories"],
        weights={name: tuple(weights) for name, weights in value["weights"].items()},
        agreement=tuple(Agreement(**row) for row in value["agreement"]),
        **statistics,
    )


def add_overall(scores: Mapping[str, Floats]) -> dict[str, Floats]:
    """The scores by criterion, preceded by their mean as `overall`."""
    return {"overall": np.mean(list(scores.values()), axis=0), **scores}


def group_by_prompt(table: SignalTable, scores: Floats) -> dict[str, list[float]]:
    """The scores of the table's stories by prompt."""
    return group_by_key(zip(table.prompts, scores.tolist(), strict=True))


def score_columns(rows: Sequence[Mapping[str, float]]) -> dict[str, Floats]:
    """Scores by criterion, as columns."""
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}
