"""Comparison of two submissions on the same prompts.

Input: two SubmissionViews. Output: a Comparison.
What is hidden for one side is hidden for both: otherwise the difference would reveal the hidden scores.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from smalltale.ranking.statistics import (
    Interval,
    bootstrap_interval,
    paired_differences,
    weighted_mean_and_sd,
)
from smalltale.server.database.models import CompletionRow, Prompt, Score
from smalltale.server.errors import not_found
from smalltale.server.submissions.visibility import StoryView, SubmissionView, load_judgements

PROMPTS_PER_PAGE = 5


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two submissions, the difference of their scores, and their stories on one page of prompts."""

    left: SubmissionView
    right: SubmissionView
    shared: int
    """Number of prompts on which both have a score."""
    difference: Interval | None
    """Mean of left minus right over the shared prompts."""
    prompts: list[tuple[Prompt, list[StoryView], list[StoryView]]]
    page: int
    pages: int

    @property
    def verdict(self) -> str:
        """One sentence on which submission is better."""
        if self.difference is None or self.difference.low is None or self.difference.high is None:
            return "There are too few judged prompts in common to compare the two."
        if self.difference.low <= 0 <= self.difference.high:
            return "The difference is within the noise: neither is ahead."
        ahead = self.left if self.difference.mean > 0 else self.right
        return f"{ahead.team.name} is ahead, beyond the noise."


def compare_submissions(
    session: Session, left: SubmissionView, right: SubmissionView, page: int
) -> Comparison:
    """Compare two submissions. Raises RequestProblem if they answer different prompt sets."""
    if left.submission.prompt_set_id != right.submission.prompt_set_id:
        raise not_found("comparison: the two submissions answer different prompts")
    side = "public" if left.scores_public_only or right.scores_public_only else "all"
    left_score, right_score = (
        session.get(Score, (view.submission.id, view.edition.panel, side)) for view in (left, right)
    )
    differences = []
    if left_score is not None and right_score is not None:
        differences = paired_differences(left_score.prompt_means, right_score.prompt_means)
    query = (
        select(Prompt).where(Prompt.prompt_set_id == left.submission.prompt_set_id).order_by(Prompt.position)
    )
    if left.stories_public_only or right.stories_public_only:
        query = query.where(Prompt.public)
    prompts = session.scalars(query).all()
    pages = max(1, -(-len(prompts) // PROMPTS_PER_PAGE))
    page = min(max(page, 1), pages)
    page_prompts = prompts[(page - 1) * PROMPTS_PER_PAGE : page * PROMPTS_PER_PAGE]
    return Comparison(
        left=left,
        right=right,
        shared=len(differences),
        difference=bootstrap_interval(differences),
        prompts=[
            (prompt, load_stories(session, left, prompt, side), load_stories(session, right, prompt, side))
            for prompt in page_prompts
        ],
        page=page,
        pages=pages,
    )


def load_stories(session: Session, view: SubmissionView, prompt: Prompt, side: str) -> list[StoryView]:
    """A submission's stories on one prompt, with judgements if their scores are visible."""
    completions = session.scalars(
        select(CompletionRow)
        .where(CompletionRow.submission_id == view.submission.id, CompletionRow.prompt_id == prompt.id)
        .order_by(CompletionRow.sample)
    ).all()
    judgements_by_completion = {}
    if prompt.public or side == "all":
        completion_ids = [completion.id for completion in completions]
        judgements_by_completion = load_judgements(session, completion_ids, view.edition.panel)
    stories = []
    for completion in completions:
        judgements = judgements_by_completion.get(completion.id, [])
        weighted_scores = [
            (judgement.ranking_score, judgement.effective_weight)
            for judgement in judgements
            if judgement.ranking_score is not None
        ]
        stories.append(
            StoryView(
                id=completion.id,
                prompt_id=prompt.id,
                prompt=prompt.text,
                sample=completion.sample,
                text=completion.text,
                public=prompt.public,
                mean=weighted_mean_and_sd(weighted_scores)[0] if weighted_scores else None,
                judgements=judgements,
            )
        )
    return stories
