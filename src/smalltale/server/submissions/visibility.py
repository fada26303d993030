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
    Completion,
    Edition,
    HandIn,
    Judgement,
    Member,
    Person,
    Prompt,
    Score,
    Team,
)
from smalltale.server.errors import missing

PAGE = 20
ORDERS = ("prompt", "best", "worst")


@dataclass(frozen=True, kw_only=True)
class Sight:
    """One hand-in as one visitor may see it."""

    hand_in: HandIn
    team: Team
    edition: Edition
    own: bool
    organiser: bool
    over: bool

    @property
    def stories_public_only(self) -> bool:
        """Whether stories of private prompts are hidden."""
        return not (self.own or self.organiser or self.over)

    @property
    def scores_public_only(self) -> bool:
        """Whether scores on private prompts are hidden."""
        return not (self.organiser or self.over)

    @property
    def side(self) -> str:
        return "public" if self.scores_public_only else "all"


def sight(session: Session, hand_in_id: int, person: Person | None, now: datetime) -> Sight:
    """A hand-in, if this person may look at it. Raises Problem 404 else: its existence is not told either."""
    found = session.execute(
        select(HandIn, Team, Edition)
        .join(Team, Team.id == HandIn.team_id)
        .join(Edition, Edition.id == HandIn.edition_id)
        .where(HandIn.id == hand_in_id)
    ).first()
    if found is None:
        raise missing("hand-in")
    hand_in, team, edition = found
    own = (
        person is not None
        and session.scalar(
            select(Member.seat).where(Member.team_id == team.id, Member.person_id == person.id)
        )
        is not None
    )
    made = Sight(
        hand_in=hand_in,
        team=team,
        edition=edition,
        own=own,
        organiser=bool(person and person.admin),
        over=now >= edition.ends,
    )
    hidden = hand_in.kind == "final" or hand_in.state != "judged" or hand_in.disqualified or team.disqualified
    if hidden and made.stories_public_only:
        raise missing("hand-in")
    return made


@dataclass(frozen=True, kw_only=True)
class ShownStory:
    """A story with what was said of it."""

    id: int
    prompt_id: int
    prompt: str
    sample: int
    text: str
    public: bool
    mean: float | None
    said: list[Judgement] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class StoryPage:
    """Some stories of a hand-in."""

    stories: list[ShownStory]
    total: int
    page: int

    @property
    def pages(self) -> int:
        return max(1, -(-self.total // PAGE))


def stories(
    session: Session,
    view: Sight,
    *,
    order: str = "prompt",
    search: str = "",
    page: int | None = 1,
    panel: str | None = None,
) -> StoryPage:
    """A page of a hand-in's stories, all of them where `page` is None: by prompt, best or worst first, those with a text in them."""
    panel = panel or view.edition.panel
    value = (
        select(Judgement.completion_id, story_mean().label("value"))
        .where(Judgement.hand_in_id == view.hand_in.id, Judgement.panel == panel)
        .group_by(Judgement.completion_id)
        .subquery()
    )
    query = (
        select(Completion, Prompt, value.c.value)
        .join(Prompt, Prompt.id == Completion.prompt_id)
        .join(value, value.c.completion_id == Completion.id, isouter=True)
        .where(Completion.hand_in_id == view.hand_in.id)
    )
    if view.stories_public_only:
        query = query.where(Prompt.public)
    if search:
        query = query.where(
            Completion.text.icontains(search[:200], autoescape=True)
            | Prompt.text.icontains(search[:200], autoescape=True)
        )
    # Sorted by score, private stories would betray their scores by their place: they are left out.
    if order in {"best", "worst"}:
        if view.scores_public_only:
            query = query.where(Prompt.public)
        by = value.c.value.desc() if order == "best" else value.c.value.asc()
        ordered = query.order_by(by.nulls_last(), Completion.id)
    else:
        ordered = query.order_by(Prompt.position, Completion.sample)
    total = session.scalar(select(func.count()).select_from(query.subquery())) or 0
    if page is not None:
        page = min(max(page, 1), max(1, -(-total // PAGE)))
        ordered = ordered.limit(PAGE).offset((page - 1) * PAGE)
    rows = session.execute(ordered).all()
    said = words_of(
        session, [row[0].id for row in rows if row[1].public or not view.scores_public_only], panel
    )
    shown = [
        ShownStory(
            id=row[0].id,
            prompt_id=row[1].id,
            prompt=row[1].text,
            sample=row[0].sample,
            text=row[0].text,
            public=row[1].public,
            mean=row[2] if row[1].public or not view.scores_public_only else None,
            said=said.get(row[0].id, []),
        )
        for row in rows
    ]
    return StoryPage(stories=shown, total=total, page=page or 1)


def story_mean() -> ColumnElement[float]:
    """The panel's mean of a story in SQL, as judging's `combined` has it."""
    score = func.coalesce(Judgement.calibrated, Judgement.overall)
    weight = case((Judgement.overall.is_not(None), func.coalesce(Judgement.weight, 1.0)), else_=0.0)
    return func.coalesce(func.sum(score * weight) / func.nullif(func.sum(weight), 0.0), func.avg(score))


def words_of(session: Session, completion_ids: Sequence[int], panel: str) -> dict[int, list[Judgement]]:
    """What was said of some stories."""
    said: dict[int, list[Judgement]] = defaultdict(list)
    for each in session.scalars(
        select(Judgement)
        .where(Judgement.completion_id.in_(completion_ids), Judgement.panel == panel)
        .order_by(Judgement.judge)
    ):
        said[each.completion_id].append(each)
    return said


def score_of(session: Session, view: Sight, panel: str | None = None) -> Score | None:
    """A hand-in's score on the side that may be seen."""
    return session.get(Score, (view.hand_in.id, panel or view.edition.panel, view.side))


def medians(session: Session, view: Sight) -> dict[str, float]:
    """The median of the field by criterion, over the last 200 judged hand-ins."""
    rows = session.scalars(
        select(Score.criteria)
        .join(HandIn, HandIn.id == Score.hand_in_id)
        .where(
            HandIn.edition_id == view.edition.id,
            HandIn.kind == view.hand_in.kind,
            Score.side == view.side,
            Score.panel == view.edition.panel,
        )
        .order_by(HandIn.id.desc())
        .limit(200)
    ).all()
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for name, value in row.items():
            values[name].append(value)
    return {name: median(found) for name, found in values.items()}
