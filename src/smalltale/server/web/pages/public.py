"""The pages anybody may look at: home, leaderboards, rules, prompts, queue, hand-ins, comparisons.

In: requests. Out: HTML that works without JavaScript, or files.
Beware: what may be seen is decided in looking.py, never here.
"""

from __future__ import annotations

import csv
import io
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from fastapi.responses import HTMLResponse, Response
from sqlalchemy import func, select

from smalltale.server.database.models import Edition, HandIn, Job, PromptSet, Team
from smalltale.server.editions.editions import find_edition, prompts_for, rules_of
from smalltale.server.errors import forbidden, missing
from smalltale.server.exchange.tables import FORMATS, board_rows, written
from smalltale.server.judging.queue import live_workers
from smalltale.server.judging.scoring import seats
from smalltale.server.leaderboard.leaderboard import Board
from smalltale.server.web.context import Visit, visit
from smalltale.server.web.formatting import scale

pages = APIRouter(include_in_schema=False)
Visitor = Annotated[Visit, Depends(visit)]
PageNumber = Annotated[int, Query(ge=1, le=100_000)]
RowNumber = Annotated[int, Path(ge=1, le=2**31 - 1)]
"""What a database may have given a row; a larger one would be an error of the database."""
LINES = 50


@pages.get("/")
def home(v: Visitor) -> HTMLResponse:
    """The current edition at a glance."""
    if v.edition is None:
        return v.render("empty.html")
    tops = {
        each.name: v.site.boards.get(v.edition, weight_class=each.name).lines[:5]
        for each in rules_of(v.edition).weight_classes
    }
    with v.store.read() as session:
        teams = session.scalar(select(func.count()).select_from(Team).where(Team.edition_id == v.edition.id))
        hand_ins = session.scalar(
            select(func.count()).select_from(HandIn).where(HandIn.edition_id == v.edition.id)
        )
        sets = session.scalars(
            select(PromptSet).where(PromptSet.edition_id == v.edition.id).order_by(PromptSet.appears)
        ).all()
        editions = session.scalars(select(Edition).order_by(Edition.starts.desc())).all()
    return v.render("home.html", tops=tops, teams=teams, hand_ins=hand_ins, sets=sets, editions=editions)


def board_for(v: Visit, slug: str, weight_class: str, kind: str, side: str) -> tuple[Edition, Board]:
    """The leaderboard asked for, where this visitor may see it. Raises Problem."""
    edition = v.edition_of(slug)
    names = {each.name for each in rules_of(edition).weight_classes}
    if weight_class and weight_class not in names:
        raise missing("weight class")
    if kind not in {"daily", "final"} or side not in {"public", "private", "all"}:
        raise missing("leaderboard")
    early = v.now < edition.ends and not (v.person and v.person.admin)
    if early and (side != "public" or kind == "final"):
        raise forbidden("this leaderboard is shown when the edition is over")
    return edition, v.site.boards.get(edition, kind=kind, side=side, weight_class=weight_class or None)


@pages.get("/e/{slug}/leaderboard")
def leaderboard(
    v: Visitor,
    slug: str,
    weight_class: Annotated[str, Query(alias="class")] = "",
    kind: str = "daily",
    side: str = "public",
    page: PageNumber = 1,
) -> HTMLResponse:
    """One leaderboard, fifty lines a page."""
    edition, board = board_for(v, slug, weight_class, kind, side)
    page_count = max(1, -(-len(board.lines) // LINES))
    page = min(page, page_count)
    revealed = v.now >= edition.ends or bool(v.person and v.person.admin)
    # Drawn once for everybody, whoever is named above it.
    drawn = board.drawn.get((page, revealed))
    if drawn is None:
        drawn = board.drawn[page, revealed] = v.part(
            "board.html",
            edition=edition,
            board=board,
            lines=board.lines[(page - 1) * LINES : page * LINES],
            page=page,
            pages=page_count,
            weight_class=weight_class,
            kind=kind,
            side=side,
            revealed=revealed,
            formats=list(FORMATS),
            scale=scale_of(board),
        )
    return v.render("leaderboard.html", edition=edition, drawn=drawn)


def scale_of(board: Board) -> tuple[float, float]:
    """The ends of the drawn intervals, over the whole board, so that pages of it can be compared."""
    entries = [line.standing.entry for line in board.lines]
    return scale(value for each in entries for value in (each.low, each.high, each.mean))


@pages.get("/e/{slug}/leaderboard.{form}")
def leaderboard_file(
    v: Visitor,
    slug: str,
    form: str,
    weight_class: Annotated[str, Query(alias="class")] = "",
    kind: str = "daily",
    side: str = "public",
) -> Response:
    """A leaderboard as CSV, JSON or Parquet."""
    if form not in FORMATS:
        raise missing(f"form; take one of {', '.join(FORMATS)}")
    _, board = board_for(v, slug, weight_class, kind, side)
    return as_file(
        written(board_rows(board), form), f"leaderboard-{slug}-{weight_class or 'all'}.{form}", FORMATS[form]
    )


def as_file(content: bytes, name: str, media: str) -> Response:
    """A download."""
    return Response(
        content, media_type=media, headers={"Content-Disposition": f'attachment; filename="{name}"'}
    )


@pages.get("/e/{slug}/rules")
def rules_page(v: Visitor, slug: str) -> HTMLResponse:
    """An edition's rules and dates."""
    with v.store.read() as session:
        edition = find_edition(session, slug)
        sets = session.scalars(
            select(PromptSet).where(PromptSet.edition_id == edition.id).order_by(PromptSet.appears)
        ).all()
    return v.render("rules.html", edition=edition, sets=sets, seats=seats(edition))


@pages.get("/e/{slug}/prompts/{kind}.csv")
def prompts_file(v: Visitor, slug: str, kind: str) -> Response:
    """A prompt set that has appeared, in the form that a hand-in has."""
    with v.store.read() as session:
        edition = find_edition(session, slug)
        found = prompts_for(session, edition, kind, v.now)
        texts = [each.text for each in found.prompts]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["prompt", "completion"])
    writer.writerows([each, ""] for each in texts for _ in range(rules_of(edition).completions_per_prompt))
    return as_file(text.getvalue().encode(), f"{slug}-{kind}-prompts.csv", "text/csv; charset=utf-8")


@pages.get("/e/{slug}/queue")
def queue(v: Visitor, slug: str) -> HTMLResponse:
    """What waits, what is being judged, which workers live."""
    with v.store.read() as session:
        edition = find_edition(session, slug)
        base = (
            select(Job, HandIn, Team)
            .join(HandIn, HandIn.id == Job.hand_in_id)
            .join(Team, Team.id == HandIn.team_id)
            .where(HandIn.edition_id == edition.id, Job.kind == "judge")
        )
        waiting = session.execute(base.where(Job.state == "waiting").order_by(Job.id).limit(100)).all()
        running = session.execute(base.where(Job.state == "running").order_by(Job.id)).all()
        done = session.execute(
            base.where(Job.state.in_(["done", "failed"])).order_by(Job.id.desc()).limit(10)
        ).all()
        total = session.scalar(
            select(func.count())
            .select_from(Job)
            .join(HandIn, HandIn.id == Job.hand_in_id)
            .where(HandIn.edition_id == edition.id, Job.kind == "judge", Job.state == "waiting")
        )
        workers = [
            each for each in live_workers(session, v.store) if (v.now - each.seen).total_seconds() < 60
        ]
    return v.render(
        "queue.html",
        edition=edition,
        waiting=waiting,
        running=running,
        done=done,
        total=total,
        workers=len(workers),
    )
