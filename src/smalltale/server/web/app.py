"""The FastAPI application: pages, API, health check, metrics, middleware and error responses.

Input: a migrated Database and settings. Output: a FastAPI app.
Importing this module must not import torch (tested), so that the server starts in a second.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from sqlalchemy import func, select, text
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from smalltale.errors import first_line
from smalltale.server.accounts.sign_in_limit import SignInLimit
from smalltale.server.database.models import Job, Submission
from smalltale.server.database.session import Database
from smalltale.server.errors import FieldProblem, RequestProblem
from smalltale.server.judging.queue import list_live_workers
from smalltale.server.leaderboard.cache import LeaderboardCache
from smalltale.server.web import oauth
from smalltale.server.web.api import api, model_uploads
from smalltale.server.web.api import submissions as submissions_api
from smalltale.server.web.context import AppState, create_context, sign_in_path
from smalltale.server.web.middleware.conditional_get import ConditionalGet
from smalltale.server.web.middleware.request_limits import HEADERS, RequestLimits
from smalltale.server.web.oauth import OAuthProvider
from smalltale.server.web.pages import accounts, admin, public, submissions, teams

log = logging.getLogger(__name__)
STATIC = Path(__file__).parent / "static"


def create_app(
    database: Database,
    *,
    public_url: str = "",
    demo: bool = False,
    providers: Mapping[str, OAuthProvider] | None = None,
) -> FastAPI:
    """The app over a migrated database. A public_url of https makes the cookies secure and sets HSTS."""
    secure = public_url.startswith("https://")
    openapi_url = "/api/v1/openapi.json"
    app = FastAPI(
        title="smalltale hackathon", version="1", docs_url=None, redoc_url=None, openapi_url=openapi_url
    )
    app.state.server = AppState(
        database=database,
        leaderboards=LeaderboardCache(database),
        sign_in_limit=SignInLimit(database),
        secret=database.secret(),
        secure_cookies=secure,
        public_url=public_url.rstrip("/"),
        demo=demo,
        providers=providers or {},
    )
    for module in (api, submissions_api, model_uploads, public, submissions, accounts, teams, admin, oauth):
        app.include_router(module.router)
    add_monitoring(app, database)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_middleware(ConditionalGet)
    app.add_middleware(RequestLimits, secure=secure)
    app.add_exception_handler(RequestProblem, problem_response)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, validation_response)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, http_exception_response)  # type: ignore[arg-type]
    app.add_exception_handler(Exception, unexpected_error_response)
    app.add_exception_handler(OperationalError, database_error_response)  # type: ignore[arg-type]
    return app


def problem_response(request: Request, problem: RequestProblem) -> Response:
    """problem+json for the API, a page for people; status 401 redirects to the sign-in page."""
    if is_api(request):
        headers = {"WWW-Authenticate": "Bearer"} if problem.status == 401 else {}
        return problem_json(problem, headers)
    if problem.status == 401:
        return RedirectResponse(sign_in_path(request), status_code=303)
    return create_context(request).render("error.html", problem=problem, status=problem.status)


def is_api(request: Request) -> bool:
    return request.url.path.startswith("/api/")


def problem_json(problem: RequestProblem, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse(problem.as_json(), problem.status, headers, media_type="application/problem+json")


def validation_response(request: Request, error: RequestValidationError) -> Response:
    """A parameter that is missing or has the wrong type."""
    fields = [
        FieldProblem(".".join(map(str, detail["loc"][1:])) or "body", detail["msg"], "correct this value")
        for detail in error.errors()
    ]
    return problem_response(request, RequestProblem(422, "a value of the request is invalid", fields))


def http_exception_response(request: Request, error: HTTPException) -> Response:
    """Errors of the framework: an unknown address, a wrong method, a malformed form."""
    titles = {404: "page not found", 405: "this address does not accept that method"}
    problem = RequestProblem(error.status_code, titles.get(error.status_code, str(error.detail)))
    if error.status_code == 405 and is_api(request):
        return problem_json(problem, error.headers)
    return problem_response(request, problem)


def database_error_response(request: Request, error: OperationalError) -> Response:
    """The database is unreachable. The driver's message goes to the log only."""
    log.error("the database does not answer: %s", first_line(error.orig or error))
    problem = RequestProblem(503, "the database does not answer; nothing was changed, try again in a minute")
    return problem_json(problem) if is_api(request) else PlainTextResponse(problem.title, status_code=503)


def unexpected_error_response(request: Request, error: Exception) -> Response:
    """A bug of ours. The server logs its traceback; the response says nothing about it."""
    problem = RequestProblem(500, "something went wrong on the server and was logged; nothing was changed")
    if is_api(request):
        return problem_json(problem, HEADERS)
    return PlainTextResponse(problem.title, status_code=500, headers=HEADERS)


def add_monitoring(app: FastAPI, database: Database) -> None:
    """Add /healthz for a supervisor and /metrics for Prometheus."""

    @app.get("/healthz", include_in_schema=False)
    def health() -> PlainTextResponse:
        with database.read() as session:
            session.execute(text("SELECT 1"))
        return PlainTextResponse("ok\n")

    @app.get("/metrics", include_in_schema=False)
    def metrics() -> PlainTextResponse:
        lines = []
        now = database.now()
        with database.read() as session:
            for name, column in (("hand_ins", Submission.state), ("jobs", Job.state)):
                lines.append(f"# TYPE smalltale_{name} gauge")
                for state, count in session.execute(select(column, func.count()).group_by(column)):
                    lines.append(f'smalltale_{name}{{state="{state}"}} {count}')
            oldest = session.scalar(select(func.min(Job.run_after)).where(Job.state == "waiting"))
            workers = list_live_workers(session, database)
        workers_alive = sum((now - worker.seen).total_seconds() < 60 for worker in workers)
        waiting_seconds = max(0.0, (now - oldest).total_seconds()) if oldest else 0.0
        lines += [
            "# TYPE smalltale_workers gauge",
            f"smalltale_workers {workers_alive}",
            "# TYPE smalltale_oldest_waiting_seconds gauge",
            f"smalltale_oldest_waiting_seconds {waiting_seconds:.1f}",
        ]
        return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")
