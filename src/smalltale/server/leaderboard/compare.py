"""Two hand-ins side by side on the same prompts.

In: two Sights. Out: a Comparison.
Beware: what either side hides is hidden on both, so that a difference betrays nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from smalltale.ranking.standings import interval
from smalltale.ranking.statistics import weighted_mean_and_deviation
from smalltale.server.database.models import Completion, Prompt, Score
from smalltale.server.errors import missing
from smalltale.server.submissions.visibility import ShownStory, Sight, words_of

PROMPTS = 5
"""A page."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two hand-ins on the prompts both answer."""

    left: Sight
    right: Sight
    shared: int
    difference: float | None
    low: float | None
    high: float | None
    prompts: list[tuple[Prompt, list[ShownStory], list[ShownStory]]]
    page: int
    pages: int

    @property
    def verdict(self) -> str:
        """One sentence on who is ahead."""
        if self.difference is None or self.low is None or self.high is None:
            return "There are too few judged prompts in common to say who is ahead."
        if self.low <= 0 <= self.high:
            return "The difference is within the noise: neither is ahead."
        return f"{(self.left if self.difference > 0 else self.right).team.name} is ahead, beyond the noise."


def compare(session: Session, left: Sight, right: Sight, page: int) -> Comparison:
    """Two hand-ins side by side, some prompts a page. Raises Problem where they answer other prompts."""
    if left.hand_in.prompt_set_id != right.hand_in.prompt_set_id:
        raise missing("comparison: the two answer different prompts")
    hidden_stories = left.stories_public_only or right.stories_public_only
    side = "public" if left.scores_public_only or right.scores_public_only else "all"
    scores = [session.get(Score, (each.hand_in.id, each.edition.panel, side)) for each in (left, right)]
    means = [each.prompt_means if each else {} for each in scores]
    shared = [means[0][key] - means[1][key] for key in means[0] if key in means[1]]
    difference, low, high = interval(shared)
    query = select(Prompt).where(Prompt.prompt_set_id == left.hand_in.prompt_set_id).order_by(Prompt.position)
    if hidden_stories:
        query = query.where(Prompt.public)
    everything = session.scalars(query).all()
    pages = max(1, -(-len(everything) // PROMPTS))
    page = min(max(page, 1), pages)
    prompts = []
    for prompt in everything[(page - 1) * PROMPTS : page * PROMPTS]:
        prompts.append(
            (prompt, on_prompt(session, left, prompt, side), on_prompt(session, right, prompt, side))
        )
    return Comparison(
        left=left,
        right=right,
        shared=len(shared),
        difference=difference,
        low=low,
        high=high,
        prompts=prompts,
        page=page,
        pages=pages,
    )


def on_prompt(session: Session, view: Sight, prompt: Prompt, side: str) -> list[ShownStory]:
    """A hand-in's stories on one prompt."""
    found = session.scalars(
        select(Completion)
        .where(Completion.hand_in_id == view.hand_in.id, Completion.prompt_id == prompt.id)
        .order_by(Completion.sample)
    ).all()
    said = (
        words_of(session, [each.id for each in found], view.edition.panel)
        if prompt.public or side == "all"
        else {}
    )
    shown = []
    for each in found:
        values = [(one.ranking, one.share) for one in said.get(each.id, []) if one.ranking is not None]
        mean = weighted_mean_and_deviation(values)[0] if values else None
        shown.append(
            ShownStory(
                id=each.id,
                prompt_id=prompt.id,
                prompt=prompt.text,
                sample=each.sample,
                text=each.text,
                public=prompt.public,
                mean=mean,
                said=said.get(each.id, []),
            )
        )
    return shown
