"""The web app: pages, API, health and metrics, put together.

In: a Site. Out: a FastAPI app.
Beware: importing this never imports torch.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from sqlalchemy import func, select, text
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from smalltale.server.database.models import HandIn, Job
from smalltale.server.database.session import Store
from smalltale.server.errors import FieldProblem, Problem
from smalltale.server.judging.queue import live_workers
from smalltale.server.leaderboard.leaderboard import Boards
from smalltale.server.web.api.api import api
from smalltale.server.web.api.model_uploads import sending
from smalltale.server.web.api.submissions import hand_in_api
from smalltale.server.web.context import Site, sign_in_path, visit
from smalltale.server.web.middleware.request_limits import HEADERS, Door
from smalltale.server.web.middleware.response_cache import Shelf
from smalltale.server.web.oauth import Provider, oauth_pages
from smalltale.server.web.pages.accounts import people_pages
from smalltale.server.web.pages.admin import organiser_pages
from smalltale.server.web.pages.public import pages
from smalltale.server.web.pages.submissions import hand_in_pages
from smalltale.server.web.pages.teams import team_pages

log = logging.getLogger(__name__)
STATIC = Path(__file__).parent / "static"
MOST_BYTES = 10_000_000


def create_app(
    store: Store,
    *,
    public_url: str = "",
    demo: bool = False,
    providers: Mapping[str, Provider] | None = None,
    most_bytes: int = MOST_BYTES,
) -> FastAPI:
    """The app over a migrated store. A public_url of https makes cookies secure."""
    secure = public_url.startswith("https://")
    app = FastAPI(
        title="smalltale hackathon",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
    )
    app.state.site = Site(
        store=store,
        boards=Boards(store),
        secret=store.secret(),
        secure=secure,
        public_url=public_url.rstrip("/"),
        demo=demo,
        providers=providers or {},
    )
    for router in (
        api,
        hand_in_api,
        pages,
        hand_in_pages,
        people_pages,
        team_pages,
        organiser_pages,
        oauth_pages,
        sending,
    ):
        app.include_router(router)
    add_health(app, store)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_middleware(Shelf)
    app.add_middleware(Door, most_bytes=most_bytes, secure=secure)
    app.add_exception_handler(Problem, answer_problem)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, answer_validation)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, answer_http)  # type: ignore[arg-type]
    app.add_exception_handler(Exception, answer_unforeseen)
    app.add_exception_handler(OperationalError, answer_database)  # type: ignore[arg-type]
    return app


def answer_problem(request: Request, problem: Problem) -> Response:
    """problem+json for the API, a page for people; who is not signed in is sent to do so."""
    if request.url.path.startswith("/api/"):
        headers = {"WWW-Authenticate": "Bearer"} if problem.status == 401 else {}
        return JSONResponse(
            problem.as_json(),
            status_code=problem.status,
            media_type="application/problem+json",
            headers=headers,
        )
    if problem.status == 401:
        return RedirectResponse(sign_in_path(request), status_code=303)
    return error_page(request, problem)


def error_page(request: Request, problem: Problem) -> HTMLResponse:
    """A page that says what was found and the mend."""
    return visit(request).render(
        "error.html",
        status=problem.status,
        trouble=problem.title,
        fields=problem.fields,
        number=problem.status,
    )


def answer_validation(request: Request, error: RequestValidationError) -> Response:
    """A parameter of a wrong form."""
    fields = [
        FieldProblem(
            ".".join(str(part) for part in each["loc"][1:]) or "body", each["msg"], "mend this value"
        )
        for each in error.errors()
    ]
    return answer_problem(request, Problem(422, "a value of the request is wrong", fields))


def answer_http(request: Request, error: HTTPException) -> Response:
    """What the framework refused: no such page, a wrong method, a broken form."""
    titles = {404: "there is no such page", 405: "this page does not take that method"}
    if error.status_code == 405 and request.url.path.startswith("/api/"):
        body = Problem(405, titles[405]).as_json()
        return JSONResponse(
            body, status_code=405, media_type="application/problem+json", headers=error.headers
        )
    return answer_problem(
        request, Problem(error.status_code, titles.get(error.status_code, str(error.detail)))
    )


def answer_database(request: Request, error: OperationalError) -> Response:
    """The database does not answer: say so, without its words."""
    log.error("the database does not answer: %s", str(error.orig).strip().splitlines()[0])
    problem = Problem(
        503, "the database does not answer just now; nothing was changed, try again in a minute"
    )
    if request.url.path.startswith("/api/"):
        return answer_problem(request, problem)
    return PlainTextResponse(problem.title, status_code=503)


def answer_unforeseen(request: Request, error: Exception) -> Response:
    """A mistake of ours. The server logs it with its traceback; the visitor is told no word of it."""
    problem = Problem(500, "something went wrong here, and it has been written down; nothing was changed")
    if request.url.path.startswith("/api/"):
        return JSONResponse(
            problem.as_json(), status_code=500, media_type="application/problem+json", headers=HEADERS
        )
    return PlainTextResponse(problem.title, status_code=500, headers=HEADERS)


def add_health(app: FastAPI, store: Store) -> None:
    """/healthz for a supervisor and /metrics for Prometheus."""

    @app.get("/healthz", include_in_schema=False)
    def health() -> PlainTextResponse:
        with store.read() as session:
            session.execute(text("SELECT 1"))
        return PlainTextResponse("ok\n")

    @app.get("/metrics", include_in_schema=False)
    def metrics() -> PlainTextResponse:
        lines = []
        with store.read() as session:
            for name, column in (("hand_ins", HandIn.state), ("jobs", Job.state)):
                lines.append(f"# TYPE smalltale_{name} gauge")
                for state, count in session.execute(select(column, func.count()).group_by(column)):
                    lines.append(f'smalltale_{name}{{state="{state}"}} {count}')
            oldest = session.scalar(select(func.min(Job.run_after)).where(Job.state == "waiting"))
            alive = [
                each
                for each in live_workers(session, store)
                if (store.now() - each.seen).total_seconds() < 60
            ]
        lines += [
            "# TYPE smalltale_workers gauge",
            f"smalltale_workers {len(alive)}",
            "# TYPE smalltale_oldest_waiting_seconds gauge",
        ]
        lines.append(
            f"smalltale_oldest_waiting_seconds {max(0.0, (store.now() - oldest).total_seconds()) if oldest else 0.0:.1f}"
        )
        return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")
