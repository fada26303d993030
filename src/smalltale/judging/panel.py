"""A panel: several judges, each on its own scale, become one score a completion.

In: judgements, and each judge's qualification on the same gold set. Out: calibrated scores, weights, disagreement.
Beware: judges are averaged only where each is calibrated; a 1–5 habit and a 1–10 habit have no mean.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smalltale.errors import FileProblem
from smalltale.files import read_json
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


@dataclass(frozen=True, kw_only=True)
class PanelScore:
    """One completion's score by the panel."""

    prompt: str
    sample: int
    score: float
    disagreement: float | None
    """Standard deviation between the calibrated judges; None with one."""


def panel_scores(
    judgements: Sequence[Judgement], calibrations: Mapping[str, Calibration]
) -> list[PanelScore]:
    """The weighted mean of calibrated scores for each completion that every judge of the panel scored."""
    judges = {each.judge for each in judgements}
    if not judges <= calibrations.keys():
        return []
    by_story: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
    for each in judgements:
        if each.overall is not None:
            by_story[each.prompt, each.sample][each.judge] = calibrations[each.judge].calibrated(each.overall)
    weights = {name: calibrations[name].weight for name in judges}
    if not sum(weights.values()):
        weights = dict.fromkeys(judges, 1.0)
    found = []
    for (prompt, sample), scores in by_story.items():
        if scores.keys() == judges:
            names = sorted(judges)
            values = np.array([scores[name] for name in names])
            mean = float(np.average(values, weights=[weights[name] for name in names]))
            spread = float(np.std(values)) if len(names) > 1 else None
            found.append(PanelScore(prompt=prompt, sample=sample, score=mean, disagreement=spread))
    return found
