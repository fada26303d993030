"""Leaderboards: each team's best submission, ranked in each weight class and over all classes.

Input: Score rows of one edition, kind, side and panel. Output: a Leaderboard per weight class, and one over all classes under None.
Pitfall: before an edition ends only organisers may see its private side and its final; the callers check that.
"""

from __future__ import annotations

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
    """Its `entry` holds the team's name and the submission's scores, weight class and parameters."""
    submission_id: int
    team_id: int
    hardware: str
    confirmed: bool
    """Whether an organiser has confirmed the weight class of the team's hardware."""
    received: datetime
    submission_count: int
    """The team's submissions on this leaderboard."""


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
    candidates_by_class: dict[str | None, list[Any]] = {None: [row for row in candidates if row.is_team_best]}
    for candidate in candidates:
        candidates_by_class.setdefault(candidate.weight_class, []).append(candidate)
    entries = {candidate.submission_id: to_entry(candidate) for candidate in candidates}
    leaderboards = {}
    for weight_class, class_candidates in candidates_by_class.items():
        # A team has one candidate per leaderboard, and team names are unique within an edition.
        candidate_by_team = {candidate.team: candidate for candidate in class_candidates}
        standings = rank(entries[candidate.submission_id] for candidate in class_candidates)
        rows = []
        for standing in standings:
            candidate = candidate_by_team[standing.entry.name]
            rows.append(
                LeaderboardRow(
                    standing=standing,
                    submission_id=candidate.submission_id,
                    team_id=candidate.team_id,
                    hardware=candidate.hardware,
                    confirmed=candidate.confirmed,
                    received=candidate.received,
                    submission_count=candidate.class_count if weight_class else candidate.team_count,
                )
            )
        leaderboards[weight_class] = Leaderboard(
            revision=edition.revision,
            kind=kind,
            side=side,
            weight_class=weight_class,
            rows=rows,
            criteria=list(dict.fromkeys(name for row in rows for name in row.standing.entry.criteria)),
        )
    return leaderboards


def select_best_submissions(
    session: Session, edition: Edition, kind: str, side: str, panel: str
) -> list[Any]:
    """Each team's best submission in each weight class, with the team's number of submissions in that class and in all.

    Ties go to the earlier submission. Window functions pick the rows in the database: only the picked rows' `prompt_means`
    (JSON, one number per prompt) are read and parsed.
    """
    is_complete = (Score.judged >= Score.expected) & (Score.expected > 0)
    best_first = (
        Score.qualified.desc(),
        case((is_complete, 1), else_=0).desc(),
        func.coalesce(Score.mean, -1).desc(),
        Submission.id,
    )
    team, team_and_class = Submission.team_id, (Submission.team_id, Submission.weight_class)
    ordered = (
        select(
            Submission.id,
            func.row_number().over(partition_by=team, order_by=best_first).label("team_position"),
            func.row_number().over(partition_by=team_and_class, order_by=best_first).label("class_position"),
            func.count().over(partition_by=team).label("team_count"),
            func.count().over(partition_by=team_and_class).label("class_count"),
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
            (ordered.c.team_position == 1).label("is_team_best"),
            ordered.c.team_count,
            ordered.c.class_count,
        )
        .join(Submission, Submission.id == ordered.c.id)
        .join(Team, Team.id == Submission.team_id)
        .join(Score, (Score.submission_id == Submission.id) & (Score.side == side) & (Score.panel == panel))
        .where(ordered.c.class_position == 1)
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
