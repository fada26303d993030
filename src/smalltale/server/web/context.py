"""The context of a page request: the session cookie, the person signed in, the edition, and the token that protects forms.

Input: a request. Output: a RequestContext, whose `render` makes the page.
The cookie changes at sign-in, so a cookie that an attacker planted before is worthless afterwards (session fixation).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path as FilePath
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Depends, Path, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from smalltale.server.accounts.accounts import SESSION_DAYS, find_person_by_session
from smalltale.server.accounts.sign_in_limit import SignInLimit
from smalltale.server.database.models import Edition, Person
from smalltale.server.database.session import Database
from smalltale.server.editions.editions import find_current_edition, get_edition, get_rules
from smalltale.server.errors import FieldProblem, RequestProblem
from smalltale.server.leaderboard.cache import LeaderboardCache
from smalltale.server.web.formatting import FILTERS, GLOBALS
from smalltale.server.web.middleware.conditional_get import PUBLIC

COOKIE = "smalltale"
TEMPLATES = FilePath(__file__).parent / "templates"


def create_templates() -> Environment:
    """The Jinja environment: everything is escaped, and an unknown name is an error."""
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    templates.filters.update((function.__name__, function) for function in FILTERS)
    templates.globals.update((function.__name__, function) for function in GLOBALS)
    return templates


@dataclass(frozen=True, kw_only=True)
class AppState:
    """What every request needs, created once at start."""

    database: Database
    leaderboards: LeaderboardCache
    sign_in_limit: SignInLimit
    secret: bytes
    secure_cookies: bool = False
    """Whether browsers send the cookies over https only."""
    providers: Mapping[str, Any] = field(default_factory=dict)
    """OAuth providers by name (oauth.py)."""
    public_url: str = ""
    """The address that people type, without a trailing slash; empty to use the address of each request."""
    demo: bool = False
    templates: Environment = field(default_factory=create_templates)


@dataclass(kw_only=True)
class RequestContext:
    """One request with its person, edition and form token."""

    app_state: AppState
    request: Request
    cookie: str
    is_new_cookie: bool
    """Whether the browser has no session cookie yet; `render` sets it with the first form."""
    person: Person | None
    edition: Edition | None
    now: datetime

    @property
    def database(self) -> Database:
        return self.app_state.database

    @property
    def form_token(self) -> str:
        return hmac.new(self.app_state.secret, self.cookie.encode(), hashlib.sha256).hexdigest()

    @property
    def client_address(self) -> str:
        return self.request.client.host if self.request.client else ""

    def require_person(self) -> Person:
        """The person signed in. Raises RequestProblem 401, which pages answer with a redirect to the sign-in page."""
        if self.person is None:
            raise RequestProblem(401, "sign in first")
        return self.person

    def require_organiser(self) -> Person:
        """The person signed in, if an organiser. Raises RequestProblem."""
        person = self.require_person()
        if not person.admin:
            raise RequestProblem(403, "this page is for organisers")
        return person

    def check_form_token(self, token: object) -> None:
        """Raise RequestProblem unless a form was sent from one of our pages in this browser (CSRF)."""
        headers, origin = self.request.headers, self.request.headers.get("origin")
        is_foreign = origin not in (None, "null") and origin.split("://")[-1] != headers.get("host")
        is_cross_site = headers.get("sec-fetch-site") in {"cross-site", "same-site"}
        is_ours = isinstance(token, str) and hmac.compare_digest(token.encode(), self.form_token.encode())
        if is_foreign or is_cross_site or not is_ours:
            title = (
                "this form has expired or came from another site; go back, reload the page and send it again"
            )
            raise RequestProblem(403, title)

    def render(
        self,
        template: str,
        *,
        problem: RequestProblem | None = None,
        form_values: Mapping[str, Any] | None = None,
        **variables: Any,
    ) -> HTMLResponse:
        """A page. A `problem` sets the status and is shown next to its fields; `form_values` fill in what was entered."""
        problems: dict[str, list[FieldProblem]] = {}
        for field_problem in problem.fields if problem else ():
            problems.setdefault(field_problem.field, []).append(field_problem)
        variables.setdefault("edition", self.edition)
        edition: Edition | None = variables["edition"]
        text = self.app_state.templates.get_template(template).render(
            person=self.person,
            now=self.now,
            rules=get_rules(edition) if edition else None,
            problems=problems,
            problem_title=problem.title if problem else "",
            form_values=form_values or {},
            form_token=self.form_token,
            path=self.request.url.path,
            providers=list(self.app_state.providers),
            demo=self.app_state.demo,
            **variables,
        )
        response = HTMLResponse(text, status_code=problem.status if problem else 200)
        if self.person:
            response.headers["Cache-Control"] = "private, no-store"
        elif self.form_token in text:
            response.headers["Cache-Control"] = "private, no-cache"
            if self.is_new_cookie:
                self.set_cookie(response, self.cookie)
        else:
            # A page without a form is the same for every visitor who is not signed in, and needs no cookie.
            response.headers["Cache-Control"] = PUBLIC
        return response

    def render_fragment(self, template: str, *, edition: Edition, **variables: Any) -> Markup:
        """A part of a page that is the same for everyone who may see it."""
        return Markup(
            self.app_state.templates.get_template(template).render(
                edition=edition, rules=get_rules(edition), **variables
            )
        )

    def find_edition(self, slug: str) -> Edition:
        """An edition by its slug; the current one needs no query. Raises RequestProblem."""
        if self.edition is not None and self.edition.slug == slug:
            return self.edition
        with self.database.read() as session:
            return get_edition(session, slug)

    def redirect(self, path: str, *, cookie: str | None = None) -> RedirectResponse:
        """Redirect to a page after an accepted form (POST, redirect, GET)."""
        response = RedirectResponse(path, status_code=303)
        if cookie is not None:
            self.set_cookie(response, cookie)
        return response

    def set_cookie(self, response: HTMLResponse | RedirectResponse, value: str) -> None:
        response.set_cookie(
            COOKIE,
            value,
            max_age=SESSION_DAYS * 86_400,
            httponly=True,
            samesite="lax",
            secure=self.app_state.secure_cookies,
            path="/",
        )


def create_context(request: Request) -> RequestContext:
    """FastAPI dependency of every page."""
    app_state: AppState = request.app.state.server
    cookie = request.cookies.get(COOKIE, "")
    with app_state.database.read() as session:
        person = find_person_by_session(app_state.database, session, cookie) if cookie else None
        edition = find_current_edition(session)
    is_new_cookie = not 20 <= len(cookie) <= 100
    return RequestContext(
        app_state=app_state,
        request=request,
        cookie=secrets.token_urlsafe(32) if is_new_cookie else cookie,
        is_new_cookie=is_new_cookie,
        person=person,
        edition=edition,
        now=app_state.database.now(),
    )


Context = Annotated[RequestContext, Depends(create_context)]
PageNumber = Annotated[int, Query(ge=1, le=100_000)]
RowId = Annotated[int, Path(ge=1, le=2**31 - 1)]
"""A row id in the path; a larger number would not fit PostgreSQL's integer and raise a database error."""


def local_path(path: str) -> str:
    """The path if it leads to this site, else `/` (open redirect)."""
    is_local = path.startswith("/") and not path.startswith("//") and "\\" not in path
    return path if is_local and path.isprintable() else "/"


def sign_in_path(request: Request) -> str:
    """The sign-in page, with this request's page as the one to return to."""
    next_path = request.url.path if request.method == "GET" else "/"
    return f"/sign-in?next={quote(next_path)}"
