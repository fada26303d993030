"""Pages of accounts: sign-in, invitation, password and API tokens.

Input: forms. Output: the page with each field's problem and the values entered, or a redirect after success.
A password is never shown; a new token is shown once.
"""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy import select

from smalltale.server.accounts import accounts
from smalltale.server.accounts.passwords import change_password
from smalltale.server.database.models import ApiToken
from smalltale.server.errors import FieldProblem, RequestProblem
from smalltale.server.web.context import COOKIE, Context, RequestContext, RowId, local_path
from smalltale.server.web.forms import Form

router = APIRouter(include_in_schema=False)


@router.get("/sign-in")
def sign_in_page(context: Context, next: str = "/") -> HTMLResponse:
    return context.render("sign_in.html", next=local_path(next))


@router.post("/sign-in")
def sign_in(form: Form) -> Response:
    """Sign in with a local account; the session cookie changes."""
    context, next_path = form.context, local_path(form["next"] or "/")
    limit = context.app_state.sign_in_limit
    try:
        limit.check(context.client_address, form["handle"])
        person = accounts.authenticate(context.database, form["handle"], form["password"])
    except RequestProblem as problem:
        if problem.status == 401:
            limit.record_failure(context.client_address, form["handle"])
        if not problem.fields:
            problem.fields = [FieldProblem("password", problem.title)]
        return context.render("sign_in.html", problem=problem, form_values=form.fields, next=next_path)
    return context.redirect(next_path, cookie=accounts.sign_in(context.database, person))


@router.post("/sign-out")
def sign_out(form: Form) -> RedirectResponse:
    """End the session, also on the server."""
    accounts.sign_out(form.context.database, form.context.cookie)
    response = form.context.redirect("/")
    response.delete_cookie(COOKIE, path="/")
    return response


@router.get("/join/{code}")
def join_page(context: Context, code: str) -> HTMLResponse:
    """The page of an account invitation."""
    return context.render("join.html", code=code[:80])


@router.post("/join/{code}")
def join(form: Form, code: str) -> Response:
    """Create a local account and sign in."""
    context = form.context
    try:
        person = accounts.create_account(context.database, code, form["handle"], form["password"])
    except RequestProblem as problem:
        return context.render("join.html", problem=problem, form_values=form.fields, code=code[:80])
    return context.redirect("/team", cookie=accounts.sign_in(context.database, person))


@router.get("/account")
def account_page(context: Context, changed: bool = False) -> HTMLResponse:
    return render_account(context, changed=changed)


def render_account(
    context: RequestContext,
    *,
    token: str = "",
    changed: bool = False,
    problem: RequestProblem | None = None,
    form_values: dict[str, str] | None = None,
) -> HTMLResponse:
    """API tokens and the password; `token` is a new one, shown once."""
    person = context.require_person()
    with context.database.read() as session:
        tokens = session.scalars(
            select(ApiToken).where(ApiToken.person_id == person.id).order_by(ApiToken.id.desc())
        ).all()
    return context.render(
        "account.html",
        problem=problem,
        form_values=form_values,
        tokens=tokens,
        token=token,
        changed=changed,
        scopes=accounts.SCOPES,
    )


@router.post("/account/tokens")
def create_token(form: Form) -> HTMLResponse:
    context = form.context
    person = context.require_person()
    try:
        token = accounts.create_token(context.database, person, form["name"], form.lists.get("scopes", []))
    except RequestProblem as problem:
        return render_account(context, problem=problem, form_values=form.fields)
    return render_account(context, token=token)


@router.post("/account/password")
def update_password(form: Form) -> Response:
    """Change the password; this browser gets a new session, and all others end."""
    context = form.context
    person, limit = context.require_person(), context.app_state.sign_in_limit
    try:
        limit.check(context.client_address, person.handle)
        change_password(context.database, person, form["password"], form["new_password"])
    except RequestProblem as problem:
        if any(field_problem.field == "password" for field_problem in problem.fields):
            limit.record_failure(context.client_address, person.handle)
        return render_account(context, problem=problem)
    return context.redirect("/account?changed=yes", cookie=accounts.sign_in(context.database, person))


@router.post("/account/tokens/{token_id}/revoke")
def revoke_token(form: Form, token_id: RowId) -> RedirectResponse:
    accounts.revoke_token(form.context.database, form.context.require_person(), token_id)
    return form.context.redirect("/account")
