"""The pages of hand-ins: one with its stories, two side by side, a team's over time.

In: requests. Out: HTML that works without JavaScript, or files.
Beware: what may be seen is decided in looking.py, never here.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse, Response
from sqlalchemy import select

from smalltale.server.database.models import Appeal, Edition, HandIn, Score, Team, Verification
from smalltale.server.errors import Problem, missing
from smalltale.server.exchange.tables import FORMATS, story_rows, written
from smalltale.server.judging.queue import place_in_queue
from smalltale.server.leaderboard.compare import compare
from smalltale.server.submissions.visibility import ORDERS, medians, score_of, sight, stories
from smalltale.server.verification.verification import doubtful, wanted
from smalltale.server.web.context import Visit
from smalltale.server.web.formatting import scale
from smalltale.server.web.pages.public import PageNumber, RowNumber, Visitor, as_file

hand_in_pages = APIRouter(include_in_schema=False)
HandInNumber = Annotated[int, Query(ge=1, le=2**31 - 1)]


@hand_in_pages.get("/hand-ins/{number}")
def hand_in_page(
    v: Visitor,
    number: RowNumber,
    order: str = "prompt",
    search: Annotated[str, Query(max_length=200)] = "",
    page: PageNumber = 1,
    panel: str = "",
) -> HTMLResponse:
    """A hand-in with its stories and what the judges said."""
    return show_hand_in(v, number, order=order, search=search, page=page, panel=panel)


@hand_in_pages.get("/hand-ins/{number}/stories.{form}")
def stories_file(v: Visitor, number: RowNumber, form: str, panel: str = "") -> Response:
    """The stories of a hand-in that this visitor may see, with what was said of them, as CSV, JSON or Parquet."""
    if form not in FORMATS:
        raise missing(f"form; take one of {', '.join(FORMATS)}")
    with v.store.read() as session:
        view = sight(session, number, v.person, v.now)
        found = stories(session, view, page=None, panel=panel or None)
    return as_file(written(story_rows(found.stories), form), f"hand-in-{number}.{form}", FORMATS[form])


def show_hand_in(
    v: Visit,
    number: int,
    *,
    order: str = "prompt",
    search: str = "",
    page: int = 1,
    panel: str = "",
    problem: Problem | None = None,
    typed: dict[str, str] | None = None,
) -> HTMLResponse:
    """The page of a hand-in, with what was wrong in one of its forms."""
    with v.store.read() as session:
        view = sight(session, number, v.person, v.now)
        panels = session.scalars(
            select(Score.panel).where(Score.hand_in_id == number).distinct().order_by(Score.panel)
        ).all()
        chosen = panel if panel in panels else view.edition.panel
        score = score_of(session, view, chosen)
        found = stories(
            session,
            view,
            order=order if order in ORDERS else "prompt",
            search=search,
            page=page,
            panel=chosen,
        )
        middle = medians(session, view)
        appeal = (
            session.scalar(select(Appeal).where(Appeal.hand_in_id == number))
            if view.own or view.organiser
            else None
        )
        verification = session.get(Verification, number)
        place = place_in_queue(session, number)
    rows = [(name, value, middle.get(name)) for name, value in (score.criteria if score else {}).items()]
    return v.render(
        "hand_in.html",
        status=problem.status if problem else 200,
        problems=problem.fields if problem else (),
        trouble=problem.title if problem else "",
        typed=typed,
        edition=view.edition,
        view=view,
        place=place,
        score=score,
        rows=rows,
        found=found,
        order=order if order in ORDERS else "prompt",
        search=search,
        appeal=appeal,
        verification=verification,
        wanted=wanted(view.hand_in, verification),
        again=verification is not None and verification.upload is not None and doubtful(verification),
        panels=list(panels),
        panel=chosen,
        formats=list(FORMATS),
    )


@hand_in_pages.get("/teams/{number}")
def team_page(v: Visitor, number: RowNumber) -> HTMLResponse:
    """A team: hardware, class, scores over time."""
    with v.store.read() as session:
        team = session.get(Team, number)
        if team is None:
            raise missing("team")
        edition = session.get_one(Edition, team.edition_id)
        own_or_over = v.now >= edition.ends or bool(v.person and v.person.admin)
        side = "all" if own_or_over else "public"
        rows = session.execute(
            select(HandIn, Score)
            .join(
                Score, (Score.hand_in_id == HandIn.id) & (Score.side == side) & (Score.panel == edition.panel)
            )
            .where(
                HandIn.team_id == number,
                HandIn.state == "judged",
                HandIn.disqualified.is_(None),
                HandIn.kind == "daily" if not own_or_over else HandIn.kind != "",
            )
            .order_by(HandIn.received)
        ).all()
    points = [
        (row[0].received, row[1].mean, row[1].low, row[1].high) for row in rows if row[1].mean is not None
    ]
    ends = scale(value for point in points for value in point[1:])
    return v.render("team_public.html", edition=edition, team=team, rows=rows, points=points, scale=ends)


@hand_in_pages.get("/compare")
def compare_page(v: Visitor, a: HandInNumber, b: HandInNumber, page: PageNumber = 1) -> HTMLResponse:
    """Two hand-ins side by side on the same prompts."""
    with v.store.read() as session:
        left, right = sight(session, a, v.person, v.now), sight(session, b, v.person, v.now)
        made = compare(session, left, right, page)
    return v.render("compare.html", edition=left.edition, made=made)
