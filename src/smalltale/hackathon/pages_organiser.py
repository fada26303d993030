"""The organisers' pages: teams to confirm, hand-ins to judge again or disqualify, appeals, invitations, the audit log.

In: an organiser's forms. Out: pages and redirects.
Beware: every change here is written to the audit log in the same transaction.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse, RedirectResponse
from sqlalchemy import func, select

from smalltale.hackathon import people
from smalltale.hackathon.editions import rules_of
from smalltale.hackathon.forms import Form, edition_of
from smalltale.hackathon.jobs import live_workers, rejudge
from smalltale.hackathon.organise import answer_appeal, disqualify
from smalltale.hackathon.pages import PageNumber, Visitor
from smalltale.hackathon.store import broken_audit_row
from smalltale.hackathon.tables import Appeal, Audit, HandIn, Job, Team
from smalltale.hackathon.teams import organise_team
from smalltale.hackathon.verification import ask
from smalltale.hackathon.visit import Visit

organiser_pages = APIRouter(include_in_schema=False, prefix="/organise")
ROWS = 100


@organiser_pages.get("")
def overview(v: Visitor, page: PageNumber = 1) -> HTMLResponse:
    """Everything that waits for an organiser."""
    return show(v, page=page)


def show(v: Visit, *, page: int = 1, code: str = "") -> HTMLResponse:
    """The overview, with a new invitation shown once."""
    v.organiser()
    edition = edition_of(v)
    with v.store.read() as session:
        teams = session.scalars(
            select(Team)
            .where(Team.edition_id == edition.id)
            .order_by(Team.confirmed, Team.id)
            .limit(ROWS)
            .offset((page - 1) * ROWS)
        ).all()
        count = (
            session.scalar(select(func.count()).select_from(Team).where(Team.edition_id == edition.id)) or 0
        )
        troubled = session.execute(
            select(HandIn, Team, Job)
            .join(Team, Team.id == HandIn.team_id)
            .join(Job, Job.hand_in_id == HandIn.id)
            .where(HandIn.edition_id == edition.id, Job.kind == "judge", Job.error.is_not(None))
            .order_by(HandIn.id.desc())
            .limit(ROWS)
        ).all()
        appeals = session.execute(
            select(Appeal, HandIn, Team)
            .join(HandIn, HandIn.id == Appeal.hand_in_id)
            .join(Team, Team.id == HandIn.team_id)
            .where(HandIn.edition_id == edition.id)
            .order_by(Appeal.answered.is_not(None), Appeal.id.desc())
            .limit(ROWS)
        ).all()
        workers = live_workers(session, v.store)
    names = [each.name for each in rules_of(edition).weight_classes]
    return v.render(
        "organise.html",
        teams=teams,
        names=names,
        troubled=troubled,
        appeals=appeals,
        workers=workers,
        code=code,
        page=page,
        pages=max(1, -(-count // ROWS)),
    )


@organiser_pages.post("/invitations")
def invitation(form: Form) -> HTMLResponse:
    """Make an account invitation."""
    organiser = form.visit.organiser()
    return show(
        form.visit,
        code=people.invite_account(form.visit.store, organiser.handle, admin=form["admin"] == "yes"),
    )


@organiser_pages.post("/teams/{number}")
def team(form: Form, number: int) -> RedirectResponse:
    """Confirm a class, or disqualify."""
    reason = form["reason"] if form["do"] == "disqualify" else ("" if form["do"] == "reinstate" else None)
    weight_class = form["weight_class"] if form["do"] == "confirm" else None
    organise_team(
        form.visit.store, form.visit.organiser(), number, weight_class=weight_class, disqualified=reason
    )
    return form.visit.go("/organise")


@organiser_pages.post("/hand-ins/{number}")
def hand_in(form: Form, number: int) -> RedirectResponse:
    """Judge again, ask for the model, or disqualify with a reason."""
    organiser = form.visit.organiser()
    if form["do"] == "judge":
        rejudge(form.visit.store, organiser, number, form["panel"] or None)
    elif form["do"] == "model":
        ask(form.visit.store, organiser, number)
    else:
        disqualify(form.visit.store, organiser, number, form["reason"])
    return form.visit.go(f"/hand-ins/{number}")


@organiser_pages.post("/appeals/{number}")
def appeal(form: Form, number: int) -> RedirectResponse:
    """Answer an appeal."""
    answer_appeal(form.visit.store, form.visit.organiser(), number, form["answer"])
    return form.visit.go("/organise")


@organiser_pages.get("/audit")
def log(v: Visitor, page: PageNumber = 1, action: Annotated[str, Query(max_length=40)] = "") -> HTMLResponse:
    """The audit log, the latest first."""
    v.organiser()
    query = select(Audit).order_by(Audit.id.desc())
    if action:
        query = query.where(Audit.action == action)
    with v.store.read() as session:
        rows = session.scalars(query.limit(ROWS).offset((page - 1) * ROWS)).all()
        broken = broken_audit_row(session) if page == 1 and not action else None
    return v.render("audit.html", rows=rows, page=page, more=len(rows) == ROWS, action=action, broken=broken)
