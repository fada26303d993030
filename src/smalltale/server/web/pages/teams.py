"""The pages of teams: one's team, the hand-in form, an appeal.

In: forms. Out: pages that name every wrong field and keep what was typed; a redirect where all was well.
Beware: a file is the one thing that a browser does not give back; the form says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from smalltale.server.database.models import Appeal, Edition, HandIn, Person, Team, TeamInvitation
from smalltale.server.database.session import audit
from smalltale.server.editions import teams
from smalltale.server.editions.editions import prompts_for, rules_of
from smalltale.server.errors import MENDABLE, FieldProblem, Problem, refused
from smalltale.server.judging.queue import place_in_queue
from smalltale.server.submissions.declaration import Declaration
from smalltale.server.submissions.receive import check_upload, hand_in, refuse_closed, refuse_used_up
from smalltale.server.submissions.visibility import sight
from smalltale.server.web.context import Visit
from smalltale.server.web.forms import Form, Posted, edition_of
from smalltale.server.web.pages.public import RowNumber, Visitor
from smalltale.server.web.pages.submissions import show_hand_in

team_pages = APIRouter(include_in_schema=False)


@team_pages.get("/team")
def team(v: Visitor) -> HTMLResponse:
    """One's team in the current edition."""
    return show_team(v)


def show_team(
    v: Visit, *, problem: Problem | None = None, typed: dict[str, str] | None = None
) -> HTMLResponse:
    """The team page, with what went wrong."""
    person, edition = v.signed_in(), edition_of(v)
    with v.store.read() as session:
        mine = teams.team_of(session, edition, person)
        members = teams.members_of(session, mine) if mine else []
        invited = teams.invitations_for(session, edition, person)
        asked = (
            session.scalars(
                select(TeamInvitation).where(
                    TeamInvitation.team_id == mine.id, TeamInvitation.answer.is_(None)
                )
            ).all()
            if mine
            else []
        )
        guests = [session.get_one(Person, each.person_id).handle for each in asked]
        hand_ins = (
            session.scalars(select(HandIn).where(HandIn.team_id == mine.id).order_by(HandIn.id.desc())).all()
            if mine
            else []
        )
        places = {each.id: place_in_queue(session, each.id) for each in hand_ins if each.state == "queued"}
    return v.render(
        "team.html",
        status=problem.status if problem else 200,
        problems=problem.fields if problem else (),
        trouble=problem.title if problem and not problem.fields else "",
        typed=typed,
        team=mine,
        members=members,
        invited=invited,
        guests=guests,
        hand_ins=hand_ins,
        places=places,
        lock=rules_of(edition).teams_lock(),
    )


def team_action(form: Posted, act: Callable[[], object]) -> Response:
    """Do something with a team, and show the page again with what went wrong."""
    try:
        act()
    except Problem as problem:
        if problem.status == 401:
            raise
        return show_team(form.visit, problem=problem, typed=form.fields)
    return form.visit.go("/team")


@team_pages.post("/team")
def make_team(form: Form) -> Response:
    """Make a team."""
    v = form.visit
    return team_action(
        form, lambda: teams.make_team(v.store, edition_of(v), v.signed_in(), form["name"], form["hardware"])
    )


@team_pages.post("/team/invite")
def invite(form: Form) -> Response:
    """Ask somebody in."""
    v = form.visit
    return team_action(form, lambda: teams.invite(v.store, edition_of(v), v.signed_in(), form["handle"]))


@team_pages.post("/team/invitations/{number}")
def answer(form: Form, number: RowNumber) -> Response:
    """Accept or decline an invitation."""
    v = form.visit
    return team_action(
        form,
        lambda: teams.answer_invitation(
            v.store, edition_of(v), v.signed_in(), number, form["answer"] == "accept"
        ),
    )


@team_pages.post("/team/leave")
def leave(form: Form) -> Response:
    """Leave one's team."""
    v = form.visit
    return team_action(form, lambda: teams.leave_team(v.store, edition_of(v), v.signed_in()))


@team_pages.get("/hand-in")
def hand_in_form(v: Visitor) -> HTMLResponse:
    """The hand-in form."""
    return show_form(v)


def show_form(
    v: Visit,
    *,
    problem: Problem | None = None,
    typed: dict[str, str] | None = None,
    passed: list[str] | None = None,
) -> HTMLResponse:
    """The hand-in form, with everything that is wrong."""
    person, edition = v.signed_in(), edition_of(v)
    with v.store.read() as session:
        mine = teams.team_of(session, edition, person)
        kinds = []
        for kind in ("daily", "final"):
            try:
                prompts_for(session, edition, kind, v.now)
            except Problem:
                continue
            kinds.append(kind)
        spent = spent_limits(session, edition, mine, kinds, v.now) if mine else []
    return v.render(
        "hand_in_form.html",
        status=problem.status if problem else 200,
        problems=problem.fields if problem else (),
        trouble=problem.title if problem else "",
        typed=typed,
        team=mine,
        kinds=kinds,
        spent=spent,
        classes=rules_of(edition).classes_open_to(mine.weight_class) if mine else [],
        passed=passed,
    )


def spent_limits(
    session: Session, edition: Edition, team: Team, kinds: Sequence[str], now: datetime
) -> list[str]:
    """Why nothing of some kind would be taken now, in words."""
    found = []
    looks = [
        partial(refuse_closed, edition, now),
        *(partial(refuse_used_up, session, rules_of(edition), team, kind, now) for kind in kinds),
    ]
    for look in looks:
        try:
            look()
        except Problem as problem:
            found.append(problem.title)
    return found


@team_pages.post("/hand-in")
def take(form: Form) -> Response:
    """Check a file, or take it."""
    v, typed = form.visit, form.fields
    person, edition = v.signed_in(), edition_of(v)
    try:
        if form["do"] == "check":
            checked = check_upload(v.store, edition, form["kind"], form.file_name, form.content)
            if checked.errors:
                raise Problem(
                    422,
                    "this file would not be accepted",
                    [FieldProblem("file", each) for each in checked.errors],
                )
            return show_form(v, typed=typed, passed=checked.warnings)
        taken = hand_in(
            v.store, edition, person, form["kind"], form.file_name, form.content, declared(form.fields)
        )
    except Problem as problem:
        return show_form(v, problem=problem, typed=typed)
    return v.go(f"/hand-ins/{taken.id}")


def declared(fields: dict[str, str]) -> Declaration:
    """A declaration from a form's or the API's fields."""
    return Declaration(
        weight_class=fields.get("weight_class", ""),
        counted_parameters=fields.get("counted_parameters", ""),
        model_hash=fields.get("model_hash", ""),
        data=fields.get("data", ""),
        sampling=fields.get("sampling", ""),
        from_scratch=fields.get("from_scratch", "") in {"yes", "true", "on", "1"},
    )


@team_pages.post("/hand-ins/{number}/appeal")
def appeal(form: Form, number: RowNumber) -> Response:
    """Ask the organisers to look again."""
    v = form.visit
    person, text = v.signed_in(), form["text"].strip()
    try:
        with v.store.write() as session:
            view = sight(session, number, person, v.now)
            if not view.own:
                raise Problem(403, "only the team itself may appeal")
            if not 10 <= len(text) <= 2000:
                raise refused("text", f"it has {len(text)} characters", "write 10 to 2,000")
            if session.scalar(select(Appeal.id).where(Appeal.hand_in_id == number)):
                raise Problem(409, "your team has appealed already; the organisers will answer")
            session.add(Appeal(hand_in_id=number, person_id=person.id, made=v.now, text=text))
            audit(session, v.now, person.handle, "appealed", f"hand-in {number}")
    except Problem as problem:
        if problem.status not in MENDABLE:
            raise
        return show_hand_in(v, number, problem=problem, typed=form.fields)
    return v.go(f"/hand-ins/{number}")
