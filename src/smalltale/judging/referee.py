"""The offline referee, experimental: marks predicted from measurable signals, for a contestant without a judge.

In: the table that `smalltale measure --signals` writes. Out: predicted marks, each beside how well such predictions agree.
Beware: it reads no story. It never stands beside an LLM judge's scores, never ranks, and knows only stories like those it
was fitted on; a signal outside the band that most of those span counts as the band's end.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalltale.errors import FileProblem
from smalltale.files import read_json, read_jsonl, write_json

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
"""Quantiles of the graded stories between which a signal counts."""
RIDGE = 30.0
"""Penalty on squared weights of standardised signals; 10 and 60 agree with the graders alike."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SignalTable:
    """The table of signals as read."""

    prompts: tuple[str, ...]
    completions: tuple[str, ...]
    signals: Floats
    """(rows, signals)"""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How predictions of one criterion agree with a grader, on stories that were kept from the fit."""

    criterion: str
    held_out: str
    """What was kept apart: prompts or models."""
    spearman: float
    within_model: float
    """Mean over models of the rank correlation among one model's stories; the baseline has none."""
    error: float
    """Root mean square, in marks."""
    guess_spearman: float | None
    """Of the baseline, which knows which model wrote a story and nothing else; None where it never saw that model."""
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
    """Weights for each criterion on signals that are cut to their band and standardised."""

    source: str
    """What it was fitted on."""
    stories: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    weights: Mapping[str, tuple[float, ...]]
    """By criterion; the first is the mark of an average story."""
    agreement: tuple[Agreement, ...] = ()

    def predict(self, values: Floats) -> dict[str, Floats]:
        """Predicted marks by criterion, `overall` their mean: (rows,) each, between 1 and 10."""
        cut = np.clip(values, self.low, self.high)
        standard = (cut - np.array(self.mean)) / np.array(self.sd)
        found = {
            name: np.clip(weights[0] + standard @ np.array(weights[1:]), 1.0, 10.0)
            for name, weights in self.weights.items()
        }
        return add_overall(found)

    def beats_baseline(self, criterion: str = "overall") -> bool:
        """Whether its marks for a criterion do, prompts held out and models held out."""
        own = self.agreements_on(criterion)
        return bool(own) and all(each.beats_baseline for each in own)

    def agreements_on(self, criterion: str) -> list[Agreement]:
        """One for prompts held out, one for models."""
        return [each for each in self.agreement if each.criterion == criterion]

    def outlier_share(self, values: Floats) -> float:
        """Share of stories with more than two signals outside the band: where high, this referee knows no such stories."""
        beyond = (values < np.array(self.low)) | (values > np.array(self.high))
        return float((beyond.sum(axis=1) > 2).mean())


def fit_weights(values: Floats, marks: Mapping[str, Floats], source: str) -> Referee:
    """Ridge regression of each criterion on the signals."""
    low, high = np.quantile(values, BAND[0], axis=0), np.quantile(values, BAND[1], axis=0)
    cut = np.clip(values, low, high)
    mean, sd = cut.mean(axis=0), cut.std(axis=0)
    sd[sd < 1e-9] = 1.0
    standard = (cut - mean) / sd
    square = standard.T @ standard + RIDGE * np.eye(len(SIGNALS))
    weights = {
        name: (float(each.mean()), *np.linalg.solve(square, standard.T @ (each - each.mean())).tolist())
        for name, each in marks.items()
    }
    return Referee(
        source=source,
        stories=len(values),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        mean=tuple(mean.tolist()),
        sd=tuple(sd.tolist()),
        weights=weights,
    )


def read_signal_table(path: Path) -> SignalTable:
    """The table of `smalltale measure --signals`. Raises FileProblem."""
    rows = read_jsonl(path)
    for number, row in enumerate(rows, 1):
        missing = [
            each
            for each in ("prompt", "completion", *SIGNALS)
            if not isinstance(row, dict) or each not in row
        ]
        if missing:
            raise FileProblem(
                f"{path} row {number} has no {', no '.join(missing)}; make the table with: smalltale measure FILE --signals {path}"
            )
        wrong = [each for each in SIGNALS if not is_finite(row[each])]
        if wrong:
            raise FileProblem(
                f"{path} row {number}: {wrong[0]} = {row[wrong[0]]!r} is no number; measure anew"
            )
    return SignalTable(
        prompts=tuple(row["prompt"] for row in rows),
        completions=tuple(row["completion"] for row in rows),
        signals=np.array([[float(row[each]) for each in SIGNALS] for row in rows]),
    )


def is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def write_referee(path: Path, referee: Referee) -> None:
    """As JSON: figures alone, no text of the graded file."""
    write_json(path, {"kind": "referee", "format": 1, "signals": SIGNALS, **asdict(referee)})


def read_referee(path: Path | None = None) -> Referee:
    """A referee from a file; None: the one that ships with smalltale. Raises FileProblem."""
    place = path or Path(str(package_files("smalltale.rubrics") / "referee.json"))
    value: Any = read_json(place)
    if not isinstance(value, dict) or value.get("kind") != "referee":
        raise FileProblem(f"{place} is not a referee; make one with: smalltale judge referee fit")
    if value.get("signals") != list(SIGNALS):
        raise FileProblem(
            f"{place} was fitted on other signals; fit it anew with: smalltale judge referee fit"
        )
    figures = {name: tuple(value[name]) for name in ("low", "high", "mean", "sd")}
    return Referee(
        source=value["source"],
        stories=value["stories"],
        weights={name: tuple(each) for name, each in value["weights"].items()},
        agreement=tuple(Agreement(**each) for each in value["agreement"]),
        **figures,
    )


def add_overall(marks: Mapping[str, Floats]) -> dict[str, Floats]:
    """The criteria, and their mean before them."""
    return {"overall": np.mean(list(marks.values()), axis=0), **marks}


def group_by_prompt(evidence: SignalTable, marks: Floats) -> dict[str, list[float]]:
    """Marks grouped by prompt."""
    found: dict[str, list[float]] = defaultdict(list)
    for prompt, mark in zip(evidence.prompts, marks, strict=True):
        found[prompt].append(float(mark))
    return found


def score_columns(scores: Sequence[Mapping[str, float]]) -> dict[str, Floats]:
    """Marks by criterion as columns."""
    return {name: np.array([each[name] for each in scores]) for name in scores[0]}
