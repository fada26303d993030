"""What a visitor may see of a hand-in and its stories, and the rows that pages and the API show.

In: a session, an edition, a person or None. Out: plain rows.
Beware: private prompts' scores stay hidden from everyone but organisers until the edition ends, also from the team itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median

from sqlalchemy import ColumnElement, case, func, select
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
    """One hand-in as one visitor may see it."""

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
        return "public" if self.scores_public_only else "all"


def view_submission(
    session: Session, submission_id: int, person: Person | None, now: datetime
) -> SubmissionView:
    """A hand-in, if this person may look at it. Raises Problem 404 else: its existence is not told either."""
    found = session.execute(
        select(Submission, Team, Edition)
        .join(Team, Team.id == Submission.team_id)
        .join(Edition, Edition.id == Submission.edition_id)
        .where(Submission.id == submission_id)
    ).first()
    if found is None:
        raise not_found("hand-in")
    hand_in, team, edition = found
    own = (
        person is not None
        and session.scalar(
            select(TeamMember.seat).where(TeamMember.team_id == team.id, TeamMember.person_id == person.id)
        )
        is not None
    )
    made = SubmissionView(
        submission=hand_in,
        team=team,
        edition=edition,
        is_own_team=own,
        is_organiser=bool(person and person.admin),
        is_edition_over=now >= edition.ends,
    )
    hidden = hand_in.kind == "final" or hand_in.state != "judged" or hand_in.disqualified or team.disqualified
    if hidden and made.stories_public_only:
        raise not_found("hand-in")
    return made


@dataclass(frozen=True, kw_only=True)
class StoryView:
    """A story with what was said of it."""

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
    """Some stories of a hand-in."""

    load_story_page: list[StoryView]
    total: int
    page: int

    @property
    def pages(self) -> int:
        return max(1, -(-self.total // STORIES_PER_PAGE))


def stories(
    session: Session,
    view: SubmissionView,
    *,
    order: str = "prompt",
    search: str = "",
    page: int | None = 1,
    panel: str | None = None,
) -> StoryPage:
    """A page of a hand-in's stories, all of them where `page` is None: by prompt, best or worst first, those with a text in them."""
    panel = panel or view.edition.panel
    value = (
        select(JudgementRow.completion_id, story_mean().label("value"))
        .where(JudgementRow.submission_id == view.submission.id, JudgementRow.panel == panel)
        .group_by(JudgementRow.completion_id)
        .subquery()
    )
    query = (
        select(CompletionRow, Prompt, value.c.value)
        .join(Prompt, Prompt.id == CompletionRow.prompt_id)
        .join(value, value.c.completion_id == CompletionRow.id, isouter=True)
        .where(CompletionRow.submission_id == view.submission.id)
    )
    if view.stories_public_only:
        query = query.where(Prompt.public)
    if search:
        query = query.where(
            CompletionRow.text.icontains(search[:200], autoescape=True)
            | Prompt.text.icontains(search[:200], autoescape=True)
        )
    # Sorted by score, private stories would betray their scores by their place: they are left out.
    if order in {"best", "worst"}:
        if view.scores_public_only:
            query = query.where(Prompt.public)
        by = value.c.value.desc() if order == "best" else value.c.value.asc()
        ordered = query.order_by(by.nulls_last(), CompletionRow.id)
    else:
        ordered = query.order_by(Prompt.position, CompletionRow.sample)
    total = session.scalar(select(func.count()).select_from(query.subquery())) or 0
    if page is not None:
        page = min(max(page, 1), max(1, -(-total // STORIES_PER_PAGE)))
        ordered = ordered.limit(STORIES_PER_PAGE).offset((page - 1) * STORIES_PER_PAGE)
    rows = session.execute(ordered).all()
    said = load_judgements(
        session, [row[0].id for row in rows if row[1].public or not view.scores_public_only], panel
    )
    shown = [
        StoryView(
            id=row[0].id,
            prompt_id=row[1].id,
            prompt=row[1].text,
            sample=row[0].sample,
            text=row[0].text,
            public=row[1].public,
            mean=row[2] if row[1].public or not view.scores_public_only else None,
            judgements=said.get(row[0].id, []),
        )
        for row in rows
    ]
    return StoryPage(load_story_page=shown, total=total, page=page or 1)


def story_mean() -> ColumnElement[float]:
    """The panel's mean of a story in SQL, as judging's `combined` has it."""
    score = func.coalesce(JudgementRow.calibrated, JudgementRow.overall)
    weight = case((JudgementRow.overall.is_not(None), func.coalesce(JudgementRow.weight, 1.0)), else_=0.0)
    return func.coalesce(func.sum(score * weight) / func.nullif(func.sum(weight), 0.0), func.avg(score))


def load_judgements(
    session: Session, completion_ids: Sequence[int], panel: str
) -> dict[int, list[JudgementRow]]:
    """What was said of some stories."""
    said: dict[int, list[JudgementRow]] = defaultdict(list)
    for each in session.scalars(
        select(JudgementRow)
        .where(JudgementRow.completion_id.in_(completion_ids), JudgementRow.panel == panel)
        .order_by(JudgementRow.judge)
    ):
        said[each.completion_id].append(each)
    return said


def get_score(session: Session, view: SubmissionView, panel: str | None = None) -> Score | None:
    """A hand-in's score on the side that may be seen."""
    return session.get(Score, (view.submission.id, panel or view.edition.panel, view.side))


def median_scores(session: Session, view: SubmissionView) -> dict[str, float]:
    """The median of the field by criterion, over the last 200 judged hand-ins."""
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
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for name, value in row.items():
            values[name].append(value)
    return {name: median(found) for name, found in values.items()}
