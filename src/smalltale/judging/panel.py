"""A panel: several judges, each on its own scale, become one score a completion.

In: judgements, and each judge's qualification on the same gold set. Out: judgements with a calibrated score and a weight.
Beware: judges are averaged only where each is calibrated; a 1–5 habit and a 1–10 habit have no mean.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from smalltale.errors import FileProblem, SmalltaleError
from smalltale.files import read_json
from smalltale.judging.judgement import Judgement
from smalltale.judging.rubric import Rubric
from smalltale.ranking.statistics import weighted_mean_and_sd

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
    """Spread of its gold scores; 0 for a judge that gives one mark to all, which has no scale."""
    weight: float
    """Agreement with the gold levels, 0 or more."""
    qualified: bool
    bar: Mapping[str, float] | None = None
    """What it was held against; not part of the rubric's hash, because a judge's answers do not depend on it."""

    def to_common_scale(self, overall: float) -> float:
        """A score on the common scale."""
        return COMMON_MEAN + COMMON_SD * (overall - self.mean) / self.sd

    def matches(self, judge: str, endpoint: str, rubric_hash: str) -> bool:
        """Whether this is that judge, there, under that rubric."""
        return (self.judge, self.endpoint, self.rubric_hash) == (judge, endpoint, rubric_hash)


def read_calibration(path: Path) -> Calibration:
    """From qualification.json. Raises FileProblem."""
    value: Any = read_json(path)
    if not isinstance(value, dict) or value.get("kind") != "qualification":
        raise FileProblem(f"{path} is not a qualification; make one with: smalltale judge qualify")
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
            f"{path} is not a whole qualification ({error}); make it anew with: smalltale judge qualify"
        ) from error


def match_calibrations(
    identities: Mapping[str, tuple[str, str]], paths: Sequence[Path], rubric: Rubric
) -> dict[str, Calibration]:
    """By name, the calibration that these files hold of each judge (its own name and endpoint) under this rubric.

    Raises SmalltaleError for a file of no judge here, or of another rubric: it would let nobody rank, unnoticed.
    """
    found: dict[str, Calibration] = {}
    for path in paths:
        each = read_calibration(path)
        names = [
            name for name, identity in identities.items() if each.matches(*identity, rubric_hash=rubric.hash)
        ]
        if not names:
            asked = ", ".join(f"{judge} at {endpoint}" for judge, endpoint in identities.values())
            raise SmalltaleError(
                f"{path} qualifies {each.judge} at {each.endpoint} under rubric hash {each.rubric_hash}, but asked are {asked} "
                f"under {rubric.name}, {rubric.hash}; qualify a judge as it is asked: smalltale judge qualify"
            )
        if each.bar not in (None, asdict(rubric.qualification)):
            raise SmalltaleError(
                f"{path} was held against another bar ({each.bar}) than rubric {rubric.name} sets ({asdict(rubric.qualification)}); "
                "qualify the judge anew, its answers are kept: smalltale judge qualify"
            )
        found[names[0]] = each
    return found


def may_rank(judges: Sequence[str], calibrations: Mapping[str, Calibration]) -> bool:
    """Whether each judge of a panel has passed its qualification: one below the bar keeps the whole panel from ranking."""
    return bool(judges) and all(name in calibrations and calibrations[name].qualified for name in judges)


def panel_weights(judges: Sequence[str], calibrations: Mapping[str, Calibration]) -> dict[str, float]:
    """Each judge's weight in the panel's mean: its agreement with the gold levels, as a share.

    Judges of no agreement at all weigh alike. Empty for a judge alone and for a panel not wholly calibrated.
    """
    if len(judges) < 2 or any(name not in calibrations or not calibrations[name].sd for name in judges):
        return {}
    total = sum(calibrations[name].weight for name in judges)
    return {name: calibrations[name].weight / total if total else 1 / len(judges) for name in judges}


def calibrate(
    judgements: Sequence[Judgement], judges: Sequence[str], calibrations: Mapping[str, Calibration]
) -> list[Judgement]:
    """With the scores and weights that rank. A judge alone, or a panel not wholly calibrated, stays as it is."""
    weights = panel_weights(judges, calibrations)
    if not weights:
        return list(judgements)
    return [
        replace(
            each,
            weight=weights[each.judge],
            calibrated=None
            if each.overall is None
            else calibrations[each.judge].to_common_scale(each.overall),
        )
        for each in judgements
    ]


@dataclass(frozen=True, kw_only=True)
class PanelScore:
    """One completion's score by all its judges."""

    prompt: str
    sample: int
    score: float
    disagreement: float | None
    """Standard deviation between the judges; None with one."""


def panel_scores(judgements: Iterable[Judgement]) -> list[PanelScore]:
    """The score of each completion that every judge here scored: the panel's weighted mean where it is calibrated."""
    said: dict[tuple[str, int], list[Judgement]] = defaultdict(list)
    for each in judgements:
        said[each.prompt, each.sample].append(each)
    found = []
    for (prompt, sample), own in said.items():
        values = [
            (score, 1.0 if each.weight is None else each.weight)
            for each in own
            if (score := each.ranking_score) is not None
        ]
        if len(values) == len(own):
            mean, spread = weighted_mean_and_sd(values)
            found.append(PanelScore(prompt=prompt, sample=sample, score=mean, disagreement=spread))
    return found
