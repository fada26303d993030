"""The pages of people and teams: sign-in, account, team, hand-in.

In: forms. Out: pages that name every wrong field and keep what was typed; a redirect where all was well.
Beware: passwords and files are the two things never shown again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from smalltale.hackathon import people, teams
from smalltale.hackathon.editions import prompts_for, rules_of
from smalltale.hackathon.intake import Declaration, check_upload, hand_in
from smalltale.hackathon.jobs import place_in_queue
from smalltale.hackathon.looking import sight
from smalltale.hackathon.pages import Visitor
from smalltale.hackathon.problems import FieldProblem, Problem, refused
from smalltale.hackathon.store import audit
from smalltale.hackathon.tables import ApiToken, Appeal, Edition, HandIn, Person, TeamInvitation
from smalltale.hackathon.visit import Visit, local_path, visit

team_pages = APIRouter(include_in_schema=False)


@dataclass(frozen=True, kw_only=True)
class Posted:
    """A form that is ours: its text fields and its file."""

    visit: Visit
    fields: dict[str, str]
    lists: dict[str, list[str]]
    file_name: str = ""
    content: bytes = b""

    def __getitem__(self, name: str) -> str:
        return self.fields.get(name, "")


async def posted(request: Request) -> Posted:
    """Read and check a form. Raises Problem where it is not ours."""
    async with request.form(max_files=1, max_fields=40) as form:
        v = await run_in_threadpool(visit, request)
        texts = [
            (name, value.replace("\x00", "")) for name, value in form.multi_items() if isinstance(value, str)
        ]
        v.check_form(dict(texts).get("form_token"))
        upload = next((value for value in form.values() if isinstance(value, UploadFile)), None)
        content = await upload.read() if upload else b""
        fields = {name: value for name, value in texts if name != "form_token"}
        lists = {name: [value for other, value in texts if other == name] for name in fields}
        return Posted(
            visit=v,
            fields=fields,
            lists=lists,
            file_name=(upload.filename or "") if upload else "",
            content=content,
        )


Form = Annotated[Posted, Depends(posted)]


def edition_of(v: Visit) -> Edition:
    """The current edition. Raises Problem."""
    if v.edition is None:
        raise Problem(404, "there is no edition yet")
    return v.edition


@team_pages.get("/sign-in")
def sign_in_form(v: Visitor, next: str = "/") -> HTMLResponse:
    """The sign-in page."""
    return v.render("sign_in.html", next=local_path(next))


@team_pages.post("/sign-in")
def sign_in(form: Form) -> Response:
    """Sign in with a local account; the cookie changes."""
    v, after = form.visit, local_path(form["next"] or "/")
    client = v.request.client.host if v.request.client else ""
    try:
        v.site.attempts.refuse(client, form["handle"])
        person = people.check_password(v.store, form["handle"], form["password"])
    except Problem as problem:
        if problem.status == 401:
            v.site.attempts.failed(client, form["handle"])
        return v.render(
            "sign_in.html",
            status=problem.status,
            problems=problem.fields or [FieldProblem("password", problem.title)],
            typed={"handle": form["handle"]},
            next=after,
        )
    return v.go(after, cookie=people.sign_in(v.store, person))


@team_pages.post("/sign-out")
def sign_out(form: Form) -> RedirectResponse:
    """End the session."""
    people.sign_out(form.visit.store, form.visit.cookie)
    response = form.visit.go("/")
    response.delete_cookie("smalltale", path="/")
    return response


@team_pages.get("/join/{code}")
def join_form(v: Visitor, code: str) -> HTMLResponse:
    """The page of an account invitation."""
    return v.render("join.html", code=code[:80])


@team_pages.post("/join/{code}")
def join(form: Form, code: str) -> Response:
    """Make a local account and sign in."""
    v = form.visit
    try:
        person = people.join(v.store, code, form["handle"], form["password"])
    except Problem as problem:
        return v.render(
            "join.html",
            status=problem.status,
            problems=problem.fields,
            typed={"handle": form["handle"]},
            code=code[:80],
        )
    return v.go("/team", cookie=people.sign_in(v.store, person))


@team_pages.get("/account")
def account(v: Visitor, shown: str = "") -> HTMLResponse:
    """API tokens."""
    return account_page(v)


def account_page(
    v: Visit, *, token: str = "", problem: Problem | None = None, typed: dict[str, str] | None = None
) -> HTMLResponse:
    """The account page, with a new token shown once."""
    person = v.signed_in()
    with v.store.read() as session:
        tokens = session.scalars(
            select(ApiToken).where(ApiToken.person_id == person.id).order_by(ApiToken.id.desc())
        ).all()
    return v.render(
        "account.html",
        status=problem.status if problem else 200,
        problems=problem.fields if problem else (),
        typed=typed,
        tokens=tokens,
        token=token,
        scopes=[each for each in people.SCOPES if each != "organise" or person.admin],
    )


@team_pages.post("/account/tokens")
def make_token(form: Form) -> HTMLResponse:
    """Make an API token."""
    v = form.visit
    try:
        token = people.make_token(v.store, v.signed_in(), form["name"], form.lists.get("scopes", []))
    except Problem as problem:
        if problem.status == 401:
            raise
        return account_page(v, problem=problem, typed=form.fields)
    return account_page(v, token=token)


@team_pages.post("/account/tokens/{number}/revoke")
def revoke_token(form: Form, number: int) -> RedirectResponse:
    """Revoke an API token."""
    people.revoke_token(form.visit.store, form.visit.signed_in(), number)
    return form.visit.go("/account")


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
def answer(form: Form, number: int) -> Response:
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
    return v.render(
        "hand_in_form.html",
        status=problem.status if problem else 200,
        problems=problem.fields if problem else (),
        trouble=problem.title if problem else "",
        typed=typed,
        team=mine,
        kinds=kinds,
        classes=rules_of(edition).classes_open_to(mine.weight_class) if mine else [],
        passed=passed,
    )


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
def appeal(form: Form, number: int) -> RedirectResponse:
    """Ask the organisers to look again."""
    v = form.visit
    person = v.signed_in()
    with v.store.write() as session:
        view = sight(session, number, person, v.now)
        if not view.own:
            raise Problem(403, "only the team itself may appeal")
        if not 10 <= len(form["text"].strip()) <= 2000:
            raise refused("text", f"it has {len(form['text'].strip())} characters", "write 10 to 2,000")
        if session.scalar(select(Appeal.id).where(Appeal.hand_in_id == number)):
            raise Problem(409, "your team has appealed already; the organisers will answer")
        session.add(Appeal(hand_in_id=number, person_id=person.id, made=v.now, text=form["text"].strip()))
        audit(session, v.now, person.handle, "appealed", f"hand-in {number}")
    return v.go(f"/hand-ins/{number}")
