"""A panel: several judges, each on its own scale, become one score a completion.

In: judgements, and each judge's qualification on the same gold set. Out: judgements with a calibrated score and a weight.
Beware: judges are averaged only where each is calibrated; a 1–5 habit and a 1–10 habit have no mean.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from smalltale.errors import FileProblem
from smalltale.files import read_json
from smalltale.judging.judge import Judge
from smalltale.judging.judgement import Judgement

COMMON_MEAN, COMMON_SD = 5.5, 2.0
"""The scale that calibrated scores are told on: the gold set's mean and spread."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """One judge on the gold set."""

    judge: str
    endpoint: str
    rubric_hash: str
    mean: float
    sd: float
    weight: float
    qualified: bool

    def calibrated(self, overall: float) -> float:
        """A score on the common scale."""
        return COMMON_MEAN + COMMON_SD * (overall - self.mean) / self.sd


def read_calibration(path: Path) -> Calibration | None:
    """From qualification.json. None where a judge's gold scores do not vary, which calibrates nothing."""
    value: Any = read_json(path)
    if not isinstance(value, dict) or value.get("kind") != "qualification":
        raise FileProblem(f"{path} is not a qualification; make one with: smalltale judge qualify")
    if not value.get("gold_sd"):
        return None
    return Calibration(
        judge=value["judge"],
        endpoint=value["endpoint"],
        rubric_hash=value["rubric_hash"],
        mean=value["gold_mean"],
        sd=value["gold_sd"],
        weight=max(0.0, value["agreement"] or 0.0),
        qualified=bool(value["qualified"]),
    )


def calibrations_of(
    judges: Sequence[Judge], paths: Sequence[Path], rubric_hash: str
) -> dict[str, Calibration]:
    """By judge, the calibrations that these files hold of it, at its endpoint and under this rubric."""
    read = [each for each in map(read_calibration, paths) if each is not None]
    return {
        judge.name: each
        for judge in judges
        for each in read
        if (each.judge, each.endpoint, each.rubric_hash) == (judge.name, judge.endpoint, rubric_hash)
    }


def calibrate(
    judgements: Sequence[Judgement], judges: Sequence[str], known: Mapping[str, Calibration]
) -> list[Judgement]:
    """With the scores and weights that rank. A judge alone, or a panel not wholly calibrated, stays as it is.

    Weights are agreements with the gold levels, as shares of the panel; judges of no agreement at all weigh alike.
    """
    if len(judges) < 2 or any(name not in known for name in judges):
        return list(judgements)
    total = sum(known[name].weight for name in judges)
    shares = {name: known[name].weight / total if total else 1 / len(judges) for name in judges}
    return [
        replace(
            each,
            weight=shares[each.judge],
            calibrated=None if each.overall is None else known[each.judge].calibrated(each.overall),
        )
        for each in judgements
    ]


@dataclass(frozen=True, kw_only=True)
class StoryScore:
    """One completion's score by all its judges."""

    prompt: str
    sample: int
    score: float
    disagreement: float | None
    """Standard deviation between the judges; None with one."""


def story_scores(judgements: Iterable[Judgement]) -> list[StoryScore]:
    """The score of each completion that every judge here scored: the panel's weighted mean where it is calibrated."""
    said: dict[tuple[str, int], list[Judgement]] = defaultdict(list)
    for each in judgements:
        said[each.prompt, each.sample].append(each)
    found = []
    for (prompt, sample), own in said.items():
        scores = [each.overall if each.calibrated is None else each.calibrated for each in own]
        values = np.array([score for score in scores if score is not None])
        if len(values) == len(own):
            weights = [1.0 if each.weight is None else each.weight for each in own]
            mean = float(np.average(values, weights=weights))
            spread = float(np.std(values)) if len(values) > 1 else None
            found.append(StoryScore(prompt=prompt, sample=sample, score=mean, disagreement=spread))
    return found
