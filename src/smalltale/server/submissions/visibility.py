"""Which parts of a submission a visitor may see, and its stories and scores for pages and the API.

Input: a database session, a submission's id, a person or None. Output: frozen views.
Note: until the edition ends, only organisers see scores on private prompts; the team itself does not.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median

from sqlalchemy import ColumnElement, case, func, or_, select
from sqlalchemy.orm import Session

from smalltale.server.database.models import (
    CompletionRow,
    Edition,
    JudgementRow,
    Person,
    Prompt,
    Score,
    Submission,
    Team,
    TeamMember,
)
from smalltale.server.errors import not_found

STORIES_PER_PAGE = 20
ORDERS = ("prompt", "best", "worst")


@dataclass(frozen=True, kw_only=True)
class SubmissionView:
    """A submission, and the facts that determine what one visitor may see of it."""

    submission: Submission
    team: Team
    edition: Edition
    is_own_team: bool
    is_organiser: bool
    is_edition_over: bool

    @property
    def stories_public_only(self) -> bool:
        """Whether stories of private prompts are hidden."""
        return not (self.is_own_team or self.is_organiser or self.is_edition_over)

    @property
    def scores_public_only(self) -> bool:
        """Whether scores on private prompts are hidden."""
        return not (self.is_organiser or self.is_edition_over)

    @property
    def side(self) -> str:
        """The side of the scores that the visitor may see: public or all."""
        return "public" if self.scores_public_only else "all"


def view_submission(
    session: Session, submission_id: int, person: Person | None, now: datetime
) -> SubmissionView:
    """A submission, if this person may see it. Raises RequestProblem 404 otherwise, as if it did not exist."""
    row = session.execute(
        select(Submission, Team, Edition)
        .join(Team, Team.id == Submission.team_id)
        .join(Edition, Edition.id == Submission.edition_id)
        .where(Submission.id == submission_id)
    ).first()
    if row is None:
        raise not_found("submission")
    submission, team, edition = row
    is_member = person is not None and session.scalar(
        select(TeamMember).where(TeamMember.team_id == team.id, TeamMember.person_id == person.id)
    )
    view = SubmissionView(
        submission=submission,
        team=team,
        edition=edition,
        is_own_team=bool(is_member),
        is_organiser=bool(person and person.admin),
        is_edition_over=now >= edition.ends,
    )
    is_hidden = (
        submission.kind == "final"
        or submission.state != "judged"
        or submission.disqualified
        or team.disqualified
    )
    if is_hidden and view.stories_public_only:
        raise not_found("submission")
    return view


@dataclass(frozen=True, kw_only=True)
class StoryView:
    """A story with its judgements."""

    id: int
    prompt_id: int
    prompt: str
    sample: int
    text: str
    public: bool
    mean: float | None
    judgements: list[JudgementRow] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class StoryPage:
    """One page of a submission's stories."""

    stories: list[StoryView]
    total: int
    page: int
    pages: int


def load_story_page(
    session: Session,
    view: SubmissionView,
    *,
    order: str = "prompt",
    search: str = "",
    page: int | None = 1,
    panel: str | None = None,
) -> StoryPage:
    """A page of a submission's stories, or all of them if `page` is None.

    `order` is one of ORDERS; `search` selects stories with that text in the story or its prompt.
    """
    panel = panel or view.edition.panel
    mean = (
        select(JudgementRow.completion_id, story_mean().label("mean"))
        .where(JudgementRow.submission_id == view.submission.id, JudgementRow.panel == panel)
        .group_by(JudgementRow.completion_id)
        .subquery()
    )
    query = (
        select(CompletionRow, Prompt, mean.c.mean)
        .join(Prompt, Prompt.id == CompletionRow.prompt_id)
        .join(mean, mean.c.completion_id == CompletionRow.id, isouter=True)
        .where(CompletionRow.submission_id == view.submission.id)
    )
    if view.stories_public_only:
        query = query.where(Prompt.public)
    if search:
        texts = CompletionRow.text, Prompt.text
        query = query.where(or_(*(text.icontains(search[:200], autoescape=True) for text in texts)))
    # Stories of private prompts are left out when sorted by score, because their positions would reveal their scores.
    if order in {"best", "worst"}:
        if view.scores_public_only:
            query = query.where(Prompt.public)
        by_mean = mean.c.mean.desc() if order == "best" else mean.c.mean.asc()
        sorted_query = query.order_by(by_mean.nulls_last(), CompletionRow.id)
    else:
        sorted_query = query.order_by(Prompt.position, CompletionRow.sample)
    total = session.scalar(select(func.count()).select_from(query.subquery())) or 0
    pages = max(1, math.ceil(total / STORIES_PER_PAGE))
    if page is not None:
        page = min(max(page, 1), pages)
        sorted_query = sorted_query.limit(STORIES_PER_PAGE).offset((page - 1) * STORIES_PER_PAGE)
    rows = session.execute(sorted_query).all()
    scores_visible = {
        completion.id for completion, prompt, _ in rows if prompt.public or not view.scores_public_only
    }
    judgements = load_judgements(session, scores_visible, panel)
    stories = [
        StoryView(
            id=completion.id,
            prompt_id=prompt.id,
            prompt=prompt.text,
            sample=completion.sample,
            text=completion.text,
            public=prompt.public,
            mean=mean_score if completion.id in scores_visible else None,
            judgements=judgements.get(completion.id, []),
        )
        for completion, prompt, mean_score in rows
    ]
    return StoryPage(stories=stories, total=total, page=page or 1, pages=pages)


def story_mean() -> ColumnElement[float]:
    """The SQL expression of a story's mean over its judges, equal to `ranking.statistics.weighted_mean_and_sd`."""
    score = func.coalesce(JudgementRow.calibrated, JudgementRow.overall)
    weight = case((JudgementRow.overall.is_not(None), func.coalesce(JudgementRow.weight, 1.0)), else_=0.0)
    return func.coalesce(func.sum(score * weight) / func.nullif(func.sum(weight), 0.0), func.avg(score))


def load_judgements(
    session: Session, completion_ids: Collection[int], panel: str
) -> dict[int, list[JudgementRow]]:
    """A panel's judgements of some completions, by completion, in the order of the judges' names."""
    judgements: dict[int, list[JudgementRow]] = defaultdict(list)
    for judgement in session.scalars(
        select(JudgementRow)
        .where(JudgementRow.completion_id.in_(completion_ids), JudgementRow.panel == panel)
        .order_by(JudgementRow.judge)
    ):
        judgements[judgement.completion_id].append(judgement)
    return judgements


def get_score(session: Session, view: SubmissionView, panel: str | None = None) -> Score | None:
    """A submission's score on the side that the visitor may see."""
    return session.get(Score, (view.submission.id, panel or view.edition.panel, view.side))


def median_scores(session: Session, view: SubmissionView) -> dict[str, float]:
    """Median scores by criterion over the last 200 judged submissions of the same kind."""
    rows = session.scalars(
        select(Score.criteria)
        .join(Submission, Submission.id == Score.submission_id)
        .where(
            Submission.edition_id == view.edition.id,
            Submission.kind == view.submission.kind,
            Score.side == view.side,
            Score.panel == view.edition.panel,
        )
        .order_by(Submission.id.desc())
        .limit(200)
    ).all()
    scores: dict[str, list[float]] = defaultdict(list)
    for criteria in rows:
        for criterion, score in criteria.items():
            scores[criterion].append(score)
    return {criterion: median(values) for criterion, values in scores.items()}
