"""The pages of people: sign-in, invitation, account and its API tokens.

In: forms. Out: pages that name every wrong field and keep what was typed; a redirect where all was well.
Beware: passwords are never shown again, a token once.
"""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy import select

from smalltale.server.accounts import accounts as people
from smalltale.server.accounts.passwords import change_password
from smalltale.server.database.models import ApiToken
from smalltale.server.errors import FieldProblem, Problem
from smalltale.server.web.context import Visit, local_path
from smalltale.server.web.forms import Form
from smalltale.server.web.pages.public import RowNumber, Visitor

people_pages = APIRouter(include_in_schema=False)


@people_pages.get("/sign-in")
def sign_in_form(v: Visitor, next: str = "/") -> HTMLResponse:
    """The sign-in page."""
    return v.render("sign_in.html", next=local_path(next))


@people_pages.post("/sign-in")
def sign_in(form: Form) -> Response:
    """Sign in with a local account; the cookie changes."""
    v, after = form.visit, local_path(form["next"] or "/")
    try:
        v.site.attempts.refuse(v.client, form["handle"])
        person = people.check_password(v.store, form["handle"], form["password"])
    except Problem as problem:
        if problem.status == 401:
            v.site.attempts.failed(v.client, form["handle"])
        return v.render(
            "sign_in.html",
            status=problem.status,
            problems=problem.fields or [FieldProblem("password", problem.title)],
            typed={"handle": form["handle"]},
            next=after,
        )
    return v.go(after, cookie=people.sign_in(v.store, person))


@people_pages.post("/sign-out")
def sign_out(form: Form) -> RedirectResponse:
    """End the session."""
    people.sign_out(form.visit.store, form.visit.cookie)
    response = form.visit.go("/")
    response.delete_cookie("smalltale", path="/")
    return response


@people_pages.get("/join/{code}")
def join_form(v: Visitor, code: str) -> HTMLResponse:
    """The page of an account invitation."""
    return v.render("join.html", code=code[:80])


@people_pages.post("/join/{code}")
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


@people_pages.get("/account")
def account(v: Visitor, changed: bool = False) -> HTMLResponse:
    """API tokens and the password."""
    return account_page(v, changed=changed)


def account_page(
    v: Visit,
    *,
    token: str = "",
    changed: bool = False,
    problem: Problem | None = None,
    typed: dict[str, str] | None = None,
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
        changed=changed,
        scopes=people.SCOPES,
    )


@people_pages.post("/account/tokens")
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


@people_pages.post("/account/password")
def password(form: Form) -> Response:
    """Change one's password; this browser gets a new session, all others end."""
    v = form.visit
    person = v.signed_in()
    try:
        v.site.attempts.refuse(v.client, person.handle)
        change_password(v.store, person, form["password"], form["new_password"])
    except Problem as problem:
        if any(each.field == "password" for each in problem.fields):
            v.site.attempts.failed(v.client, person.handle)
        return account_page(v, problem=problem)
    return v.go("/account?changed=yes", cookie=people.sign_in(v.store, person))


@people_pages.post("/account/tokens/{number}/revoke")
def revoke_token(form: Form, number: RowNumber) -> RedirectResponse:
    """Revoke an API token."""
    people.revoke_token(form.visit.store, form.visit.signed_in(), number)
    return form.visit.go("/account")
