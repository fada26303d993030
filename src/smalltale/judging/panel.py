"""A panel of judges: calibrate their scores to one scale and average them into one score per completion.

Input: judgements, and each judge's qualification on the same gold set. Output: judgements with calibrated score and weight.
Note: judges are averaged only if all are calibrated, because one may use 1 to 5 of the scale and another 1 to 10.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from smalltale.errors import FileProblem, SmalltaleError
from smalltale.files import read_json
from smalltale.judging.judgement import Judgement
from smalltale.judging.rubric import Rubric
from smalltale.ranking.statistics import group_by_key, weighted_mean_and_sd

COMMON_MEAN, COMMON_SD = 5.5, 2.0
"""The common scale: mean and standard deviation of calibrated scores on the gold set."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Statistics of one judge on the gold set."""

    judge: str
    endpoint: str
    rubric_hash: str
    mean: float
    sd: float
    """Standard deviation of its gold scores; 0 for a constant judge, which cannot be calibrated."""
    weight: float
    """Rank correlation with the gold levels, at least 0."""
    qualified: bool
    bar: Mapping[str, float] | None = None
    """The qualification bar; not part of the rubric's hash, because a judge's answers do not depend on it."""

    def to_common_scale(self, overall: float) -> float:
        """A score on the common scale."""
        return COMMON_MEAN + COMMON_SD * (overall - self.mean) / self.sd

    def matches(self, judge: str, endpoint: str, rubric_hash: str) -> bool:
        """Whether this is the calibration of this judge at this endpoint under this rubric."""
        return (self.judge, self.endpoint, self.rubric_hash) == (judge, endpoint, rubric_hash)


def read_calibration(path: Path) -> Calibration:
    """Read a qualification.json. Raises FileProblem."""
    value: Any = read_json(path)
    if not isinstance(value, dict) or value.get("kind") != "qualification":
        raise FileProblem(f"{path} is not a qualification; create one with: smalltale judge qualify")
    try:
        return Calibration(
            judge=str(value["judge"]),
            endpoint=str(value["endpoint"]),
            rubric_hash=str(value["rubric_hash"]),
            mean=float(value["gold_mean"] or 0.0),
            sd=float(value["gold_sd"] or 0.0),
            weight=max(0.0, float(value["agreement"] or 0.0)),
            qualified=value["qualified"] is True,
            bar=value.get("bar"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FileProblem(
            f"{path} is not a complete qualification ({error}); run smalltale judge qualify again"
        ) from error


def match_calibrations(
    identities: Mapping[str, tuple[str, str]], paths: Sequence[Path], rubric: Rubric
) -> dict[str, Calibration]:
    """Read qualification files and match them to the judges: calibration by name. `identities`: (judge, endpoint) by name.

    Raises SmalltaleError for a file of another judge, rubric or bar, without which its judge would silently not rank.
    """
    calibrations: dict[str, Calibration] = {}
    for path in paths:
        calibration = read_calibration(path)
        names = [name for name, identity in identities.items() if calibration.matches(*identity, rubric.hash)]
        if not names:
            judges = ", ".join(f"{judge} at {endpoint}" for judge, endpoint in identities.values())
            raise SmalltaleError(
                f"{path} qualifies {calibration.judge} at {calibration.endpoint} under rubric hash {calibration.rubric_hash}, but this run has {judges} "
                f"under rubric {rubric.name}, {rubric.hash}; qualify the judge of this run with: smalltale judge qualify"
            )
        if calibration.bar not in (None, asdict(rubric.qualification)):
            raise SmalltaleError(
                f"{path} was checked against another bar ({calibration.bar}) than that of rubric {rubric.name} ({asdict(rubric.qualification)}); "
                "run smalltale judge qualify again, its answers are cached"
            )
        calibrations[names[0]] = calibration
    return calibrations


def may_rank(judges: Sequence[str], calibrations: Mapping[str, Calibration]) -> bool:
    """Whether all judges of a panel are qualified: one below the bar keeps the whole panel from ranking."""
    return bool(judges) and all(name in calibrations and calibrations[name].qualified for name in judges)


def panel_weights(judges: Sequence[str], calibrations: Mapping[str, Calibration]) -> dict[str, float]:
    """Each judge's share in the panel's mean, proportional to its agreement with the gold levels.

    Equal shares if no judge agrees at all. Empty for a single judge, and for a panel with an uncalibrated judge.
    """
    if len(judges) < 2 or any(name not in calibrations or not calibrations[name].sd for name in judges):
        return {}
    total = sum(calibrations[name].weight for name in judges)
    return {name: calibrations[name].weight / total if total else 1 / len(judges) for name in judges}


def calibrate(
    judgements: Sequence[Judgement], judges: Sequence[str], calibrations: Mapping[str, Calibration]
) -> list[Judgement]:
    """Add calibrated scores and weights. Those of a single judge or a panel with an uncalibrated judge stay as they are."""
    weights = panel_weights(judges, calibrations)
    if not weights:
        return list(judgements)
    return [
        replace(
            judgement,
            weight=weights[judgement.judge],
            calibrated=None
            if judgement.overall is None
            else calibrations[judgement.judge].to_common_scale(judgement.overall),
        )
        for judgement in judgements
    ]


@dataclass(frozen=True, kw_only=True)
class PanelScore:
    """One completion's score, averaged over its judges."""

    prompt: str
    sample: int
    score: float
    disagreement: float | None
    """Standard deviation between the judges; None for one judge."""


def panel_scores(judgements: Iterable[Judgement]) -> list[PanelScore]:
    """The score of each completion that all its judges scored: the weighted mean for a calibrated panel."""
    judgements_by_story = group_by_key(
        ((judgement.prompt, judgement.sample), judgement) for judgement in judgements
    )
    scores = []
    for (prompt, sample), panel in judgements_by_story.items():
        scores_and_weights = [
            (score, 1.0 if judgement.weight is None else judgement.weight)
            for judgement in panel
            if (score := judgement.ranking_score) is not None
        ]
        if len(scores_and_weights) == len(panel):
            mean, sd = weighted_mean_and_sd(scores_and_weights)
            scores.append(PanelScore(prompt=prompt, sample=sample, score=mean, disagreement=sd))
    return scores
