"""Summarises a submission's judgements into scores for the public, the private and all prompts, and decides which judges may rank.

Input: JudgementRows of one panel, an edition. Output: Score rows, and a new revision of the edition.
Note: a submission is scored in the transaction that marks it as judged, so a leaderboard never shows partial scores as complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from smalltale.judging.panel import Calibration, may_rank, panel_weights
from smalltale.ranking.standings import Entry, JudgeScores, summarise_entry
from smalltale.server.database.models import CompletionRow, Edition, JudgementRow, Prompt, Score, Submission

SIDES = ("public", "private", "all")


def is_scripted(judge: str) -> bool:
    """Whether a judge is a script of the demonstration, which has no qualification."""
    return judge.startswith("scripted-")


def get_calibrations(edition: Edition) -> dict[str, Calibration]:
    """The calibrations of an edition's qualified judges, by judge."""
    return {name: Calibration(**fields) for name, fields in edition.calibrations.items()}


def is_panel_qualified(edition: Edition, judges: Sequence[str]) -> bool:
    """Whether submissions that these judges judged may rank: each has passed its qualification, or all are scripts."""
    return all(map(is_scripted, judges)) or may_rank(judges, get_calibrations(edition))


@dataclass(frozen=True, kw_only=True)
class PanelJudge:
    """A judge of an edition's panel, as pages and the API show it."""

    judge: str
    script: bool
    """Whether it is a script of the demonstration, which does not read the stories."""
    qualified: bool
    weight: float | None
    """Its weight in a calibrated panel's mean."""


def list_panel_judges(edition: Edition) -> list[PanelJudge]:
    """The judges of an edition's current panel."""
    calibrations = get_calibrations(edition)
    weights = panel_weights(edition.judges, calibrations)
    return [
        PanelJudge(
            judge=judge,
            script=is_scripted(judge),
            qualified=may_rank([judge], calibrations),
            weight=weights.get(judge),
        )
        for judge in edition.judges
    ]


def score_submission(
    session: Session, submission: Submission, panel: str, judges: Sequence[str], *, qualified: bool
) -> None:
    """Replace a submission's scores by a panel: one Score for each side of the prompts."""
    completions = session.execute(
        select(CompletionRow.id, CompletionRow.sample, CompletionRow.prompt_id, Prompt.public)
        .join(Prompt, Prompt.id == CompletionRow.prompt_id)
        .where(CompletionRow.submission_id == submission.id)
    ).all()
    judgements = session.scalars(
        select(JudgementRow).where(JudgementRow.submission_id == submission.id, JudgementRow.panel == panel)
    ).all()
    session.execute(delete(Score).where(Score.submission_id == submission.id, Score.panel == panel))
    for side in SIDES:
        on_side = {row.id: row for row in completions if side == "all" or row.public == (side == "public")}
        entry = summarise_entry(
            str(submission.id),
            [
                JudgeScores(
                    prompt=str(on_side[judgement.completion_id].prompt_id),
                    sample=on_side[judgement.completion_id].sample,
                    judge=judgement.judge,
                    state=judgement.state,  # type: ignore[arg-type]
                    overall=judgement.ranking_score,
                    weight=judgement.effective_weight,
                    scores=judgement.scores,
                )
                for judgement in judgements
                if judgement.completion_id in on_side
            ],
            expected=len(on_side) * len(judges),
            qualified=qualified,
        )
        session.add(score_row(submission.id, panel, side, entry))
    edition = update(Edition).where(Edition.id == submission.edition_id)
    session.execute(edition.values(revision=Edition.revision + 1))


def score_row(submission_id: int, panel: str, side: str, entry: Entry) -> Score:
    """An entry as a row of the score table."""
    return Score(
        submission_id=submission_id,
        panel=panel,
        side=side,
        mean=entry.mean,
        low=entry.low,
        high=entry.high,
        criteria=dict(entry.criteria),
        prompt_means=dict(entry.prompt_means),
        judged=entry.judged,
        expected=entry.expected,
        disagreement=entry.disagreement,
        qualified=entry.qualified,
    )
