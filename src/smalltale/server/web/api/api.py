"""The API: the same acts as the pages, with tokens, JSON, and problem+json for everything that goes wrong.

In: requests with `Authorization: Bearer smalltale_…`. Out: JSON.
Beware: a cookie is never taken here, so no other site can act through a visitor's browser.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from sqlalchemy import select

from smalltale.server.accounts.accounts import person_of_token
from smalltale.server.database.models import Edition, Person
from smalltale.server.editions.editions import find_edition, prompts_for, rules_of
from smalltale.server.errors import Problem, forbidden, missing
from smalltale.server.exchange.tables import board_rows
from smalltale.server.judging.scoring import seats
from smalltale.server.web.context import Site
from smalltale.server.web.middleware.response_cache import PUBLIC

api = APIRouter(prefix="/api/v1")
bearer = HTTPBearer(auto_error=False, description="An API token from your account page")
Slug = Annotated[str, Path(min_length=1, max_length=64)]
Number = Annotated[int, Path(ge=1, le=2**31 - 1)]
Kind = Literal["daily", "final"]


class ProblemDetail(BaseModel):
    """RFC 9457, with every field's problem."""

    type: str = "about:blank"
    title: str
    status: int
    errors: list[dict[str, str]] = []


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problem answers of an operation, for the OpenAPI document."""
    return {
        status: {
            "description": "a problem",
            "content": {"application/problem+json": {"schema": ProblemDetail.model_json_schema()}},
        }
        for status in (400, 422, *statuses)
    }


def site_of(request: Request) -> Site:
    site: Site = request.app.state.site
    return site


SiteOf = Annotated[Site, Depends(site_of)]


def holder(scope: str) -> Callable[..., Person]:
    """A dependency: the person whose token has this scope."""

    def found(
        site: SiteOf, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
    ) -> Person:
        if credentials is None:
            raise Problem(401, "this needs a token: Authorization: Bearer smalltale_…")
        return person_of_token(site.store, credentials.credentials, scope)

    return found


Reader = Annotated[Person, Depends(holder("read"))]
Sender = Annotated[Person, Depends(holder("hand-in"))]


def edition_json(edition: Edition) -> dict[str, Any]:
    """An edition as JSON."""
    rules = rules_of(edition)
    return {
        "slug": edition.slug,
        "title": edition.title,
        "starts": edition.starts,
        "ends": edition.ends,
        "teams_lock": rules.teams_lock(),
        "panel": edition.panel,
        "rubric": edition.rubric,
        "judges": [asdict(each) for each in seats(edition)],
        "completions_per_prompt": rules.completions_per_prompt,
        "hand_ins_per_day": rules.hand_ins_per_day,
        "weight_classes": [
            {"name": each.name, "max_parameters": each.max_parameters} for each in rules.weight_classes
        ],
    }


@api.get("/editions")
def editions(site: SiteOf) -> list[dict[str, Any]]:
    """All editions, the latest first."""
    with site.store.read() as session:
        return [
            edition_json(each) for each in session.scalars(select(Edition).order_by(Edition.starts.desc()))
        ]


@api.get("/editions/{slug}", responses=problems(404))
def edition(site: SiteOf, slug: Slug) -> dict[str, Any]:
    """One edition."""
    with site.store.read() as session:
        return edition_json(find_edition(session, slug))


@api.get("/editions/{slug}/prompts/{kind}", responses=problems(404))
def prompts(site: SiteOf, slug: Slug, kind: Literal["practice", "daily", "final"]) -> dict[str, Any]:
    """A prompt set that has appeared."""
    with site.store.read() as session:
        found = prompts_for(session, find_edition(session, slug), kind, site.store.now())
        return {"kind": kind, "appears": found.appears, "prompts": [each.text for each in found.prompts]}


@api.get("/editions/{slug}/leaderboard", responses=problems(403, 404))
def leaderboard(
    site: SiteOf,
    slug: Slug,
    response: Response,
    weight_class: Annotated[str | None, Query(alias="class", max_length=20)] = None,
    kind: Kind = "daily",
    side: Literal["public", "private", "all"] = "public",
) -> dict[str, Any]:
    """A leaderboard; the private side and the final when the edition is over."""
    with site.store.read() as session:
        edition = find_edition(session, slug)
    if weight_class is not None and weight_class not in {
        each.name for each in rules_of(edition).weight_classes
    }:
        raise missing("weight class")
    if site.store.now() < edition.ends and (side != "public" or kind == "final"):
        raise forbidden("this leaderboard is shown when the edition is over")
    board = site.boards.get(edition, kind=kind, side=side, weight_class=weight_class)
    response.headers["Cache-Control"] = PUBLIC
    return {
        "edition": slug,
        "class": weight_class,
        "kind": kind,
        "side": side,
        "criteria": board.criteria,
        "standings": board_rows(board),
    }


@api.get("/clock")
def clock(site: SiteOf) -> dict[str, datetime]:
    """The server's clock, by which deadlines are kept."""
    return {"now": site.store.now()}
