"""The HTTP API: editions, prompts, leaderboards, and what all API routes share (tokens, parameters, problem responses).

Input: requests with `Authorization: Bearer smalltale_…`. Output: JSON, and problem+json for every error.
The API ignores cookies, so another site cannot act through a visitor's browser.
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

from smalltale.server.accounts.accounts import authenticate_token
from smalltale.server.database.models import Edition, Person
from smalltale.server.editions.editions import get_edition, get_prompt_set, get_rules
from smalltale.server.errors import RequestProblem, forbidden, not_found
from smalltale.server.exchange.tables import leaderboard_table
from smalltale.server.judging.scoring import list_panel_judges
from smalltale.server.web.context import AppState
from smalltale.server.web.middleware.conditional_get import PUBLIC

router = APIRouter(prefix="/api/v1")
bearer = HTTPBearer(auto_error=False, description="An API token from your account page")
Slug = Annotated[str, Path(min_length=1, max_length=64)]
SubmissionId = Annotated[int, Path(ge=1, le=2**31 - 1)]
Kind = Literal["daily", "final"]


class ProblemDetail(BaseModel):
    """RFC 9457 problem details, with one object per wrong field."""

    type: str = "about:blank"
    title: str
    status: int
    errors: list[dict[str, str]] = []


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problem responses of an operation, for the OpenAPI document."""
    return {
        status: {
            "description": "a problem",
            "content": {"application/problem+json": {"schema": ProblemDetail.model_json_schema()}},
        }
        for status in (400, 422, *statuses)
    }


def get_app_state(request: Request) -> AppState:
    app_state: AppState = request.app.state.server
    return app_state


State = Annotated[AppState, Depends(get_app_state)]


def require_scope(scope: str) -> Callable[..., Person]:
    """A dependency: the person whose token has this scope."""

    def authenticate(
        state: State, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
    ) -> Person:
        if credentials is None:
            raise RequestProblem(401, "this needs a token: Authorization: Bearer smalltale_…")
        return authenticate_token(state.database, credentials.credentials, scope)

    return authenticate


Reader = Annotated[Person, Depends(require_scope("read"))]
Submitter = Annotated[Person, Depends(require_scope("hand-in"))]


def edition_json(edition: Edition) -> dict[str, Any]:
    rules = get_rules(edition)
    return {
        "slug": edition.slug,
        "title": edition.title,
        "starts": edition.starts,
        "ends": edition.ends,
        "teams_lock": rules.teams_lock(),
        "panel": edition.panel,
        "rubric": edition.rubric,
        "judges": [asdict(judge) for judge in list_panel_judges(edition)],
        "completions_per_prompt": rules.completions_per_prompt,
        "hand_ins_per_day": rules.hand_ins_per_day,
        "weight_classes": [
            {"name": weight_class.name, "max_parameters": weight_class.max_parameters}
            for weight_class in rules.weight_classes
        ],
    }


@router.get("/editions")
def editions(state: State) -> list[dict[str, Any]]:
    """All editions, newest first."""
    with state.database.read() as session:
        rows = session.scalars(select(Edition).order_by(Edition.starts.desc()))
        return [edition_json(edition) for edition in rows]


@router.get("/editions/{slug}", responses=problems(404))
def edition(state: State, slug: Slug) -> dict[str, Any]:
    """One edition."""
    with state.database.read() as session:
        return edition_json(get_edition(session, slug))


@router.get("/editions/{slug}/prompts/{kind}", responses=problems(404))
def prompts(state: State, slug: Slug, kind: Literal["practice", "daily", "final"]) -> dict[str, Any]:
    """A released prompt set."""
    with state.database.read() as session:
        prompt_set = get_prompt_set(session, get_edition(session, slug), kind, state.database.now())
        return {
            "kind": kind,
            "appears": prompt_set.appears,
            "prompts": [prompt.text for prompt in prompt_set.prompts],
        }


@router.get("/editions/{slug}/leaderboard", responses=problems(403, 404))
def leaderboard(
    state: State,
    slug: Slug,
    response: Response,
    weight_class: Annotated[str | None, Query(alias="class", max_length=20)] = None,
    kind: Kind = "daily",
    side: Literal["public", "private", "all"] = "public",
) -> dict[str, Any]:
    """A leaderboard; the private side and the final open when the edition is over."""
    with state.database.read() as session:
        edition = get_edition(session, slug)
    names = {option.name for option in get_rules(edition).weight_classes}
    if weight_class is not None and weight_class not in names:
        raise not_found("weight class")
    if state.database.now() < edition.ends and (side != "public" or kind == "final"):
        raise forbidden("this leaderboard opens when the edition is over")
    leaderboard = state.leaderboards.get(edition, kind=kind, side=side, weight_class=weight_class)
    response.headers["Cache-Control"] = PUBLIC
    return {
        "edition": slug,
        "class": weight_class,
        "kind": kind,
        "side": side,
        "criteria": leaderboard.criteria,
        "standings": leaderboard_table(leaderboard),
    }


@router.get("/clock")
def clock(state: State) -> dict[str, datetime]:
    """The server's clock, which decides deadlines."""
    return {"now": state.database.now()}
