"""Who is visiting a page: the cookie, the person behind it, and the token that proves a form is ours.

In: a request. Out: a Visit; `render` answers with a page.
Beware: the cookie changes at sign-in, so a cookie planted before it is worth nothing after it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from smalltale.server.accounts.accounts import SESSION_DAYS, person_of_session
from smalltale.server.database.models import Edition, Person
from smalltale.server.database.session import Store
from smalltale.server.editions.editions import current_edition, find_edition, rules_of
from smalltale.server.errors import FieldProblem, Problem
from smalltale.server.leaderboard.leaderboard import Boards
from smalltale.server.web import formatting as show
from smalltale.server.web.middleware.request_limits import SignInLimit
from smalltale.server.web.middleware.response_cache import PUBLIC

COOKIE = "smalltale"
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, kw_only=True)
class Site:
    """What every request needs, made once at start."""

    store: Store
    boards: Boards
    secret: bytes
    secure: bool = False
    """Whether cookies are for https only."""
    providers: Mapping[str, Any] = field(default_factory=dict)
    """Sign-in through others (oauth.py), by name."""
    public_url: str = ""
    """The address people type, without a slash at its end; empty where it is the one that is asked."""
    demo: bool = False
    attempts: SignInLimit = field(default_factory=SignInLimit)
    pages: Environment = field(default_factory=lambda: environment())


@dataclass(kw_only=True)
class Visit:
    """One request's person and form token."""

    site: Site
    request: Request
    cookie: str
    fresh: bool
    """Whether the cookie is new and must be set."""
    person: Person | None
    edition: Edition | None
    now: datetime

    @property
    def store(self) -> Store:
        return self.site.store

    @property
    def form_token(self) -> str:
        return hmac.new(self.site.secret, self.cookie.encode(), hashlib.sha256).hexdigest()

    @property
    def client(self) -> str:
        """The visitor's address."""
        return self.request.client.host if self.request.client else ""

    def signed_in(self) -> Person:
        """The person. Raises Problem 401, which pages answer with the sign-in page."""
        if self.person is None:
            raise Problem(401, "sign in first")
        return self.person

    def organiser(self) -> Person:
        """The person, where it is an organiser. Raises Problem."""
        person = self.signed_in()
        if not person.admin:
            raise Problem(403, "this page is for organisers")
        return person

    def check_form(self, token: object) -> None:
        """Raise Problem where a form did not come from our own page of this visitor."""
        origin = self.request.headers.get("origin")
        foreign = origin not in (None, "null") and origin.split("://")[-1] != self.request.headers.get("host")
        crossed = self.request.headers.get("sec-fetch-site") in {"cross-site", "same-site"}
        if (
            foreign
            or crossed
            or not isinstance(token, str)
            or not hmac.compare_digest(token.encode(), self.form_token.encode())
        ):
            raise Problem(
                403,
                "this form has grown old or came from another site; go back, reload the page and send it again",
            )

    def render(
        self,
        template: str,
        *,
        status: int = 200,
        problems: Sequence[FieldProblem] = (),
        typed: Mapping[str, Any] | None = None,
        **context: Any,
    ) -> HTMLResponse:
        """A page. `problems` stand beside their fields, `typed` keeps what was typed."""
        by_field: dict[str, list[FieldProblem]] = {}
        for each in problems:
            by_field.setdefault(each.field, []).append(each)
        context.setdefault("edition", self.edition)
        shown: Edition | None = context["edition"]
        text = self.site.pages.get_template(template).render(
            visit=self,
            person=self.person,
            now=self.now,
            rules=rules_of(shown) if shown else None,
            problems=by_field,
            typed=typed or {},
            form_token=self.form_token,
            path=self.request.url.path,
            providers=list(self.site.providers),
            demo=self.site.demo,
            **context,
        )
        response = HTMLResponse(text, status_code=status)
        if self.person:
            response.headers["Cache-Control"] = "private, no-store"
        elif self.form_token in text:
            response.headers["Cache-Control"] = "private, no-cache"
            if self.fresh:
                self.set_cookie(response, self.cookie)
        else:
            # Without a form the page is the same for all who are not signed in, and needs no cookie.
            response.headers["Cache-Control"] = PUBLIC
        return response

    def part(self, template: str, *, edition: Edition, **context: Any) -> Markup:
        """A part of a page that is the same for whoever may see it."""
        made = self.site.pages.get_template(template)
        return Markup(made.render(edition=edition, rules=rules_of(edition), **context))

    def edition_of(self, slug: str) -> Edition:
        """The edition of that name; most visitors ask for the current one, which is known. Raises Problem."""
        if self.edition is not None and self.edition.slug == slug:
            return self.edition
        with self.store.read() as session:
            return find_edition(session, slug)

    def go(self, path: str, *, cookie: str | None = None) -> RedirectResponse:
        """Answer a form that was accepted: look at that page now."""
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
            secure=self.site.secure,
            path="/",
        )


def visit(request: Request) -> Visit:
    """FastAPI's dependency for pages."""
    site: Site = request.app.state.site
    cookie = request.cookies.get(COOKIE, "")
    with site.store.read() as session:
        person = person_of_session(site.store, session, cookie) if cookie else None
        edition = current_edition(session)
    fresh = not 20 <= len(cookie) <= 100
    return Visit(
        site=site,
        request=request,
        cookie=secrets.token_urlsafe(32) if fresh else cookie,
        fresh=fresh,
        person=person,
        edition=edition,
        now=site.store.now(),
    )


def local_path(wished: str) -> str:
    """A path on this site, `/` for anything that leads elsewhere."""
    safe = (
        wished.startswith("/")
        and not wished.startswith(("//", "/\\"))
        and wished.isprintable()
        and "\\" not in wished
    )
    return wished if safe else "/"


def sign_in_path(request: Request) -> str:
    """The sign-in page that leads back here."""
    back = request.url.path if request.method == "GET" else "/"
    return f"/sign-in?next={quote(back)}"


def environment() -> Environment:
    """The templates: everything escaped, an unknown name is an error."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(show.FILTERS)
    made.globals.update(show.GLOBALS)
    return made
