"""Pages of submissions: one submission with its stories, two compared, a team's public page.

Input: requests. Output: HTML that works without JavaScript, or files.
What a visitor may see is decided in submissions/visibility.py, never here.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy import select

from smalltale.server.database.models import Appeal, Edition, Score, Submission, Team, Verification
from smalltale.server.errors import RequestProblem, not_found
from smalltale.server.exchange.tables import FORMATS, encode_table, story_table
from smalltale.server.judging.queue import get_queue_position
from smalltale.server.leaderboard.compare import compare_submissions
from smalltale.server.submissions.visibility import (
    ORDERS,
    get_score,
    load_story_page,
    median_scores,
    view_submission,
)
from smalltale.server.verification.verification import is_doubtful, is_model_wanted
from smalltale.server.web.context import Context, PageNumber, RequestContext, RowId
from smalltale.server.web.formatting import axis_range
from smalltale.server.web.pages.public import file_response, require_format, sees_private_side

router = APIRouter(include_in_schema=False)
SubmissionId = Annotated[int | None, Query(ge=1, le=2**31 - 1)]


@router.get("/submissions/{submission_id}")
def submission_page(
    context: Context,
    submission_id: RowId,
    order: str = "prompt",
    search: Annotated[str, Query(max_length=200)] = "",
    page: PageNumber = 1,
    panel: str = "",
) -> HTMLResponse:
    """A submission with its stories and judgements."""
    return render_submission(context, submission_id, order=order, search=search, page=page, panel=panel)


@router.get("/submissions/{submission_id}/stories.{file_format}")
def stories_file(context: Context, submission_id: RowId, file_format: str, panel: str = "") -> Response:
    """The stories that this visitor may see, with their judgements, as CSV, JSON or Parquet."""
    require_format(file_format)
    with context.database.read() as session:
        view = view_submission(session, submission_id, context.person, context.now)
        stories = load_story_page(session, view, page=None, panel=panel or None).stories
    return file_response(
        encode_table(story_table(stories), file_format),
        f"submission-{submission_id}.{file_format}",
        FORMATS[file_format],
    )


@router.get("/hand-ins/{path:path}")
@router.get("/hand-in")
def redirect_old_address(request: Request) -> RedirectResponse:
    """Permanent redirect from the addresses of earlier versions, with their query."""
    path = request.url.path.replace("/hand-ins/", "/submissions/", 1)
    path = "/submit" if path == "/hand-in" else path
    return RedirectResponse(f"{path}?{request.url.query}" if request.url.query else path, status_code=308)


def render_submission(
    context: RequestContext,
    submission_id: int,
    *,
    order: str = "prompt",
    search: str = "",
    page: int = 1,
    panel: str = "",
    problem: RequestProblem | None = None,
    form_values: dict[str, str] | None = None,
) -> HTMLResponse:
    """The page of a submission, with the problem of one of its forms."""
    order = order if order in ORDERS else "prompt"
    with context.database.read() as session:
        view = view_submission(session, submission_id, context.person, context.now)
        panels = session.scalars(
            select(Score.panel).where(Score.submission_id == submission_id).distinct().order_by(Score.panel)
        ).all()
        panel = panel if panel in panels else view.edition.panel
        score = get_score(session, view, panel)
        story_page = load_story_page(session, view, order=order, search=search, page=page, panel=panel)
        medians = median_scores(session, view)
        appeal = None
        if view.is_own_team or view.is_organiser:
            appeal = session.scalar(select(Appeal).where(Appeal.submission_id == submission_id))
        verification = session.get(Verification, submission_id)
        queue_position = get_queue_position(session, submission_id)
    criteria = score.criteria if score else {}
    return context.render(
        "submission.html",
        problem=problem,
        form_values=form_values,
        edition=view.edition,
        view=view,
        submission=view.submission,
        queue_position=queue_position,
        score=score,
        criteria_rows=[(name, value, medians.get(name)) for name, value in criteria.items()],
        story_page=story_page,
        order=order,
        search=search,
        appeal=appeal,
        verification=verification,
        is_model_wanted=is_model_wanted(view.submission, verification),
        can_verify_again=verification and verification.upload and is_doubtful(verification),
        panels=list(panels),
        panel=panel,
        formats=list(FORMATS),
    )


@router.get("/teams/{team_id}")
def team_page(context: Context, team_id: RowId) -> HTMLResponse:
    """A team's public page: hardware, weight class, scores over time."""
    with context.database.read() as session:
        team = session.get(Team, team_id)
        if team is None:
            raise not_found("team")
        edition = session.get_one(Edition, team.edition_id)
        sees_all = sees_private_side(context, edition)
        query = (
            select(Submission, Score)
            .join(Score, (Score.submission_id == Submission.id) & (Score.panel == edition.panel))
            .where(
                Submission.team_id == team_id,
                Submission.state == "judged",
                Submission.disqualified.is_(None),
                Score.side == ("all" if sees_all else "public"),
            )
        )
        if not sees_all:
            query = query.where(Submission.kind == "daily")
        rows = session.execute(query.order_by(Submission.received)).all()
    points = [
        (submission.received, score.mean, score.low, score.high)
        for submission, score in rows
        if score.mean is not None
    ]
    axis = axis_range(value for point in points for value in point[1:])
    return context.render("team_public.html", edition=edition, team=team, rows=rows, points=points, axis=axis)


@router.get("/compare")
def compare_page(
    context: Context, a: SubmissionId = None, b: SubmissionId = None, page: PageNumber = 1
) -> HTMLResponse:
    """Two submissions next to each other on the same prompts."""
    if a is None or b is None:
        raise RequestProblem(422, "choose two submissions to compare")
    with context.database.read() as session:
        left = view_submission(session, a, context.person, context.now)
        right = view_submission(session, b, context.person, context.now)
        comparison = compare_submissions(session, left, right, page)
    return context.render("compare.html", edition=left.edition, comparison=comparison)
