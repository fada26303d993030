"""The organisers' pages: teams to confirm, hand-ins to judge again or disqualify, appeals, accounts, the audit log.

In: an organiser's forms. Out: pages that say beside a field what was wrong with it; a redirect where all was well.
Beware: every change here is written to the audit log in the same transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse, Response
from sqlalchemy import func, select

from smalltale.server.accounts import accounts as people
from smalltale.server.admin import (
    answer_appeal,
    change_account,
    count_unheard,
    disqualify,
    judge_all,
    rejudge,
    reset_password,
)
from smalltale.server.database.models import Appeal, Audit, HandIn, Job, Person, Team
from smalltale.server.database.session import broken_audit_row
from smalltale.server.editions.editions import rules_of
from smalltale.server.editions.teams import organise_team
from smalltale.server.errors import MENDABLE, Problem
from smalltale.server.judging.queue import live_workers
from smalltale.server.verification.verification import ask
from smalltale.server.web.context import Visit
from smalltale.server.web.forms import Form, Posted, edition_of
from smalltale.server.web.pages.public import PageNumber, RowNumber, Visitor
from smalltale.server.web.pages.submissions import show_hand_in

organiser_pages = APIRouter(include_in_schema=False, prefix="/organise")
ROWS = 100


@organiser_pages.get("")
def overview(v: Visitor, page: PageNumber = 1) -> HTMLResponse:
    """Everything that waits for an organiser."""
    return show(v, page=page)


def show(
    v: Visit,
    *,
    page: int = 1,
    code: str = "",
    password: str = "",
    problem: Problem | None = None,
    typed: dict[str, str] | None = None,
    about: str = "",
) -> HTMLResponse:
    """The overview: with a new invitation or password shown once, or with what was wrong in the form named by `about`."""
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
        unheard = count_unheard(session, edition)
        special = session.scalars(
            select(Person).where(Person.admin | Person.disabled).order_by(Person.handle).limit(ROWS)
        ).all()
    names = [each.name for each in rules_of(edition).weight_classes]
    return v.render(
        "organise.html",
        status=problem.status if problem else 200,
        problems=problem.fields if problem else (),
        trouble=problem.title if problem and not problem.fields else "",
        typed=typed,
        about=about,
        teams=teams,
        names=names,
        troubled=troubled,
        appeals=appeals,
        workers=workers,
        unheard=unheard,
        special=special,
        code=code,
        password=password,
        page=page,
        pages=max(1, -(-count // ROWS)),
    )


def done(form: Posted, about: str, act: Callable[[], object]) -> Response:
    """Do something, and show the overview again: with what was wrong, where it was."""
    try:
        act()
    except Problem as problem:
        if problem.status not in MENDABLE and not problem.fields:
            raise
        return show(form.visit, problem=problem, typed=form.fields, about=about)
    return form.visit.go("/organise")


@organiser_pages.post("/invitations")
def invitation(form: Form) -> HTMLResponse:
    """Make an account invitation."""
    organiser = form.visit.organiser()
    return show(
        form.visit,
        code=people.invite_account(form.visit.store, organiser.handle, admin=form["admin"] == "yes"),
    )


@organiser_pages.post("/accounts")
def account(form: Form) -> Response:
    """Close or open an account, make somebody an organiser or no longer one, give a new password."""
    v = form.visit
    if form["act"] == "password":
        try:
            password = reset_password(v.store, v.organiser(), form["handle"])
        except Problem as problem:
            if not problem.fields:
                raise
            return show(v, problem=problem, typed=form.fields, about="accounts")
        return show(v, password=password, typed=form.fields)
    return done(form, "accounts", lambda: change_account(v.store, v.organiser(), form["handle"], form["act"]))


@organiser_pages.post("/judging")
def judging(form: Form) -> Response:
    """Ask the edition's panel about every hand-in that it has not been asked about."""
    v = form.visit
    return done(form, "judging", lambda: judge_all(v.store, v.organiser(), edition_of(v)))


@organiser_pages.post("/teams/{number}")
def team(form: Form, number: RowNumber) -> Response:
    """Confirm a class, disqualify, or take that back."""
    v, do = form.visit, form["do"]
    return done(
        form,
        f"team {number}",
        lambda: organise_team(
            v.store,
            v.organiser(),
            number,
            weight_class=form["weight_class"] if do == "confirm" else None,
            disqualified=form["reason"] if do == "disqualify" else None,
            reinstated=do == "reinstate",
        ),
    )


@organiser_pages.post("/hand-ins/{number}")
def hand_in(form: Form, number: RowNumber) -> Response:
    """Judge again, ask for the model, disqualify with a reason, or bring back."""
    v, do = form.visit, form["do"]
    organiser = v.organiser()
    try:
        if do == "judge":
            rejudge(v.store, organiser, number, form["panel"] or None)
        elif do == "model":
            ask(v.store, organiser, number)
        else:
            disqualify(v.store, organiser, number, form["reason"] if do == "disqualify" else None)
    except Problem as problem:
        if problem.status not in MENDABLE:
            raise
        return show_hand_in(v, number, problem=problem, typed=form.fields)
    return v.go(f"/hand-ins/{number}")


@organiser_pages.post("/appeals/{number}")
def appeal(form: Form, number: RowNumber) -> Response:
    """Answer an appeal."""
    v = form.visit
    return done(
        form, f"appeal {number}", lambda: answer_appeal(v.store, v.organiser(), number, form["answer"])
    )


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
