"""A hand-in's judgements become its scores, one row for each side of the prompts; and which judges may rank.

In: Judgement rows of one panel, an edition. Out: Score rows (public, private, all); the edition's revision moves on.
Beware: settled in the transaction of the last judgements, so a leaderboard never shows half of them as a whole.
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
    """Whether a judge is one of the demonstration's scripts, which nobody qualifies."""
    return judge.startswith("scripted-")


def get_calibrations(edition: Edition) -> dict[str, Calibration]:
    """By judge, what its qualification says."""
    return {name: Calibration(**each) for name, each in edition.calibrations.items()}


def is_panel_qualified(edition: Edition, judges: Sequence[str]) -> bool:
    """Whether hand-ins that these judged may rank: each has passed its qualification, or all are scripts."""
    return all(map(is_scripted, judges)) or may_rank(judges, get_calibrations(edition))


@dataclass(frozen=True, kw_only=True)
class PanelJudge:
    """A judge of an edition's panel, as pages and the API tell of it."""

    judge: str
    script: bool
    """A demonstration's, which has read nothing."""
    qualified: bool
    weight: float | None
    """Its share in a calibrated panel's mean."""


def list_panel_judges(edition: Edition) -> list[PanelJudge]:
    """The panel of an edition."""
    known = get_calibrations(edition)
    weights = panel_weights(edition.judges, known)
    return [
        PanelJudge(
            judge=each, script=is_scripted(each), qualified=may_rank([each], known), weight=weights.get(each)
        )
        for each in edition.judges
    ]


def score_submission(
    session: Session, hand_in: Submission, panel: str, judges: Sequence[str], *, qualified: bool
) -> Entry:
    """Sum up what a panel said of a hand-in. Returns the entry over all prompts."""
    stories = session.execute(
        select(CompletionRow.id, CompletionRow.sample, Prompt.id, Prompt.public)
        .join(Prompt, Prompt.id == CompletionRow.prompt_id)
        .where(CompletionRow.submission_id == hand_in.id)
    ).all()
    place = {row[0]: row for row in stories}
    said = session.scalars(
        select(JudgementRow).where(JudgementRow.submission_id == hand_in.id, JudgementRow.panel == panel)
    ).all()
    session.execute(delete(Score).where(Score.submission_id == hand_in.id, Score.panel == panel))
    entry = None
    for side in SIDES:
        on_side = {key: row for key, row in place.items() if side == "all" or row[3] == (side == "public")}
        entry = summarise_entry(
            str(hand_in.id),
            [
                JudgeScores(
                    prompt=str(on_side[each.completion_id][2]),
                    sample=on_side[each.completion_id][1],
                    judge=each.judge,
                    state=each.state,  # type: ignore[arg-type]
                    overall=each.ranking_score,
                    weight=each.effective_weight,
                    scores=each.scores,
                )
                for each in said
                if each.completion_id in on_side
            ],
            expected=len(on_side) * len(judges),
            qualified=qualified,
            seed=0,
        )
        session.add(score_row(hand_in.id, panel, side, entry))
    assert entry is not None
    session.execute(
        update(Edition).where(Edition.id == hand_in.edition_id).values(revision=Edition.revision + 1)
    )
    return entry


def score_row(submission_id: int, panel: str, side: str, entry: Entry) -> Score:
    """An entry as a row."""
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
