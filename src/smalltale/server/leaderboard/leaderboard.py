"""Leaderboards: each team's best submission, ranked in each weight class and over all classes.

Input: Score rows of one edition, kind, side and panel. Output: a Leaderboard per weight class, and one over all classes under None.
Pitfall: before an edition ends only organisers may see its private side and its final; the callers check that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from smalltale.ranking.standings import Entry, Standing, rank
from smalltale.server.database.models import Edition, Score, Submission, Team


@dataclass(frozen=True, kw_only=True)
class LeaderboardRow:
    """A team's best submission with its rank."""

    standing: Standing
    submission_id: int
    team_id: int
    team: str
    hardware: str
    weight_class: str
    confirmed: bool
    """Whether an organiser has confirmed the weight class of the team's hardware."""
    counted_parameters: int
    verified: bool
    received: datetime
    submission_count: int


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """The ranked rows of one weight class, or of all classes where `weight_class` is None, at one revision of the edition."""

    revision: int
    kind: str
    side: str
    weight_class: str | None
    rows: list[LeaderboardRow]
    criteria: list[str]
    fragments: dict[tuple[int, bool], Any] = field(default_factory=dict, compare=False, repr=False)
    """Rendered HTML by page number and whether the private side is linked; cached with the leaderboard."""


def build_leaderboards(
    session: Session, edition: Edition, *, kind: str, side: str, panel: str | None = None
) -> dict[str | None, Leaderboard]:
    """Leaderboards by weight class, for the classes that have a submission, and over all classes (None)."""
    candidates = select_best_submissions(session, edition, kind, side, panel or edition.panel)
    candidates_by_class: dict[str | None, list[Any]] = {None: best_per_team(candidates)}
    submissions_by_team: Counter[int] = Counter()
    for candidate in candidates:
        candidates_by_class.setdefault(candidate.weight_class, []).append(candidate)
        submissions_by_team[candidate.team_id] += candidate.submission_count
    entries = {candidate.submission_id: to_entry(candidate) for candidate in candidates}
    leaderboards = {}
    for weight_class, class_candidates in candidates_by_class.items():
        # A team has one candidate per leaderboard, and team names are unique within an edition.
        candidate_by_team = {candidate.team: candidate for candidate in class_candidates}
        standings = rank(entries[candidate.submission_id] for candidate in class_candidates)
        rows = []
        for standing in standings:
            candidate = candidate_by_team[standing.entry.name]
            count = candidate.submission_count if weight_class else submissions_by_team[candidate.team_id]
            rows.append(to_row(candidate, standing, count))
        leaderboards[weight_class] = Leaderboard(
            revision=edition.revision,
            kind=kind,
            side=side,
            weight_class=weight_class,
            rows=rows,
            criteria=list(dict.fromkeys(name for row in rows for name in row.standing.entry.criteria)),
        )
    return leaderboards


def best_per_team(candidates: Iterable[Any]) -> list[Any]:
    """Each team's best candidate over all weight classes; ties go to the earlier submission."""
    best: dict[int, Any] = {}
    for candidate in sorted(candidates, key=sort_key, reverse=True):
        best.setdefault(candidate.team_id, candidate)
    return list(best.values())


def sort_key(candidate: Any) -> tuple[bool, bool, float, int]:
    """Sort key of a team's submissions, the best highest: the Python form of the order in `select_best_submissions`."""
    is_complete = candidate.judged >= candidate.expected > 0
    mean = -1.0 if candidate.mean is None else candidate.mean
    return candidate.qualified, is_complete, mean, -candidate.submission_id


def select_best_submissions(
    session: Session, edition: Edition, kind: str, side: str, panel: str
) -> list[Any]:
    """Each team's best submission in each weight class, with the number of its submissions in that class.

    A window function picks them in the database: only the picked rows' `prompt_means` (JSON, one number per prompt) are read and parsed.
    """
    is_complete = (Score.judged >= Score.expected) & (Score.expected > 0)
    best_first = (
        Score.qualified.desc(),
        case((is_complete, 1), else_=0).desc(),
        func.coalesce(Score.mean, -1).desc(),
        Submission.id,
    )
    group = (Submission.team_id, Submission.weight_class)
    ordered = (
        select(
            Submission.id,
            func.row_number().over(partition_by=group, order_by=best_first).label("position"),
            func.count().over(partition_by=group).label("submission_count"),
        )
        .join(Score, Score.submission_id == Submission.id)
        .join(Team, Team.id == Submission.team_id)
        .where(
            Submission.edition_id == edition.id,
            Submission.kind == kind,
            Score.side == side,
            Score.panel == panel,
            Submission.disqualified.is_(None),
            Team.disqualified.is_(None),
        )
        .subquery()
    )
    best = (
        select(
            Submission.id.label("submission_id"),
            Submission.team_id,
            Submission.weight_class,
            Submission.counted_parameters,
            Submission.verified_parameters,
            Submission.received,
            Team.name.label("team"),
            Team.hardware,
            Team.confirmed,
            Score.mean,
            Score.low,
            Score.high,
            Score.criteria,
            Score.prompt_means,
            Score.judged,
            Score.expected,
            Score.disagreement,
            Score.qualified,
            ordered.c.submission_count,
        )
        .join(Submission, Submission.id == ordered.c.id)
        .join(Team, Team.id == Submission.team_id)
        .join(Score, (Score.submission_id == Submission.id) & (Score.side == side) & (Score.panel == panel))
        .where(ordered.c.position == 1)
    )
    return list(session.execute(best))


def to_entry(candidate: Any) -> Entry:
    """A row of `select_best_submissions` as an Entry for ranking."""
    return Entry(
        name=candidate.team,
        mean=candidate.mean,
        low=candidate.low,
        high=candidate.high,
        criteria=candidate.criteria,
        prompt_means=candidate.prompt_means,
        judged=candidate.judged,
        expected=candidate.expected,
        disagreement=candidate.disagreement,
        qualified=candidate.qualified,
        weight_class=candidate.weight_class,
        counted_parameters=candidate.verified_parameters or candidate.counted_parameters,
        verified=candidate.verified_parameters is not None,
    )


def to_row(candidate: Any, standing: Standing, submission_count: int) -> LeaderboardRow:
    """A ranked row of `select_best_submissions`."""
    return LeaderboardRow(
        standing=standing,
        submission_id=candidate.submission_id,
        team_id=candidate.team_id,
        team=candidate.team,
        hardware=candidate.hardware,
        weight_class=candidate.weight_class,
        confirmed=candidate.confirmed,
        counted_parameters=candidate.verified_parameters or candidate.counted_parameters,
        verified=candidate.verified_parameters is not None,
        received=candidate.received,
        submission_count=submission_count,
    )
