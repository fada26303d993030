"""A hand-in's judgements become its scores, one row for each side of the prompts.

In: Judgement rows of one panel. Out: Score rows (public, private, all); the edition's revision moves on.
Beware: settled in the transaction of the last judgements, so a leaderboard never shows half of them as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from smalltale.hackathon.standings import Entry, StoryScores, summarise
from smalltale.hackathon.tables import Completion, Edition, HandIn, Judgement, Prompt, Score

SIDES = ("public", "private", "all")


def settle(session: Session, hand_in: HandIn, panel: str, judges: Sequence[str], *, qualified: bool) -> Entry:
    """Sum up what a panel said of a hand-in. Returns the entry over all prompts."""
    stories = session.execute(
        select(Completion.id, Completion.sample, Prompt.id, Prompt.public)
        .join(Prompt, Prompt.id == Completion.prompt_id)
        .where(Completion.hand_in_id == hand_in.id)
    ).all()
    place = {row[0]: row for row in stories}
    said = session.scalars(
        select(Judgement).where(Judgement.hand_in_id == hand_in.id, Judgement.panel == panel)
    ).all()
    session.execute(delete(Score).where(Score.hand_in_id == hand_in.id, Score.panel == panel))
    entry = None
    for side in SIDES:
        on_side = {key: row for key, row in place.items() if side == "all" or row[3] == (side == "public")}
        entry = summarise(
            str(hand_in.id),
            [
                StoryScores(
                    prompt=str(on_side[each.completion_id][2]),
                    sample=on_side[each.completion_id][1],
                    judge=each.judge,
                    state=each.state,  # type: ignore[arg-type]
                    overall=each.overall,
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


def score_row(hand_in_id: int, panel: str, side: str, entry: Entry) -> Score:
    """An entry as a row."""
    return Score(
        hand_in_id=hand_in_id,
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
