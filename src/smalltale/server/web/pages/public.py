"""Pages that anyone may see: home, leaderboards, rules, prompts and the judging queue.

Input: requests. Output: HTML that works without JavaScript, or files.
"""

from __future__ import annotations

import csv
import io
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse, Response
from sqlalchemy import func, select

from smalltale.server.database.models import Edition, Job, PromptSet, Submission, Team
from smalltale.server.editions.editions import get_edition, get_prompt_set, get_rules
from smalltale.server.errors import forbidden, not_found
from smalltale.server.exchange.tables import FORMATS, encode_table, leaderboard_table
from smalltale.server.judging.queue import list_live_workers
from smalltale.server.judging.scoring import list_panel_judges
from smalltale.server.leaderboard.leaderboard import Leaderboard
from smalltale.server.web.context import Context, PageNumber, RequestContext
from smalltale.server.web.formatting import axis_range

router = APIRouter(include_in_schema=False)
ROWS_PER_PAGE = 50


@router.get("/")
def home(context: Context) -> HTMLResponse:
    """The current edition: dates, figures, the top five of each weight class."""
    edition = context.edition
    if edition is None:
        return context.render("no_edition.html")
    top_rows = {
        weight_class.name: context.app_state.leaderboards.get(edition, weight_class=weight_class.name).rows[
            :5
        ]
        for weight_class in get_rules(edition).weight_classes
    }
    with context.database.read() as session:
        teams = session.scalar(select(func.count()).select_from(Team).where(Team.edition_id == edition.id))
        submissions = session.scalar(
            select(func.count()).select_from(Submission).where(Submission.edition_id == edition.id)
        )
        prompt_sets = session.scalars(
            select(PromptSet).where(PromptSet.edition_id == edition.id).order_by(PromptSet.appears)
        ).all()
        editions = session.scalars(select(Edition).order_by(Edition.starts.desc())).all()
    return context.render(
        "home.html",
        top_rows=top_rows,
        teams=teams,
        submissions=submissions,
        prompt_sets=prompt_sets,
        editions=editions,
    )


def get_leaderboard(
    context: RequestContext, slug: str, weight_class: str, kind: str, side: str
) -> tuple[Edition, Leaderboard]:
    """A leaderboard that this visitor may see. Raises RequestProblem."""
    edition = context.find_edition(slug)
    if weight_class and weight_class not in {option.name for option in get_rules(edition).weight_classes}:
        raise not_found("weight class")
    if kind not in {"daily", "final"} or side not in {"public", "private", "all"}:
        raise not_found("leaderboard")
    if not sees_private_side(context, edition) and (side != "public" or kind == "final"):
        raise forbidden("this leaderboard opens when the edition is over")
    leaderboards = context.app_state.leaderboards
    return edition, leaderboards.get(edition, kind=kind, side=side, weight_class=weight_class or None)


def sees_private_side(context: RequestContext, edition: Edition) -> bool:
    """Whether this visitor may see private prompts' scores and the final: everyone after the end, organisers before it."""
    return context.now >= edition.ends or bool(context.person and context.person.admin)


@router.get("/e/{slug}/leaderboard")
def leaderboard_page(
    context: Context,
    slug: str,
    weight_class: Annotated[str, Query(alias="class")] = "",
    kind: str = "daily",
    side: str = "public",
    page: PageNumber = 1,
) -> HTMLResponse:
    """One leaderboard, fifty rows per page."""
    edition, leaderboard = get_leaderboard(context, slug, weight_class, kind, side)
    pages = max(1, -(-len(leaderboard.rows) // ROWS_PER_PAGE))
    page = min(page, pages)
    links_private_side = sees_private_side(context, edition)
    # The table is rendered once per leaderboard, for signed-in visitors too; only the page around it differs.
    fragment = leaderboard.fragments.get((page, links_private_side))
    if fragment is None:
        entries = [row.standing.entry for row in leaderboard.rows]
        fragment = leaderboard.fragments[page, links_private_side] = context.render_fragment(
            "leaderboard_table.html",
            edition=edition,
            leaderboard=leaderboard,
            rows=leaderboard.rows[(page - 1) * ROWS_PER_PAGE : page * ROWS_PER_PAGE],
            page=page,
            pages=pages,
            weight_class=weight_class,
            kind=kind,
            side=side,
            links_private_side=links_private_side,
            formats=list(FORMATS),
            # One axis for all pages of a leaderboard, so that their plots can be compared.
            axis=axis_range(value for entry in entries for value in (entry.low, entry.high, entry.mean)),
        )
    return context.render("leaderboard.html", edition=edition, fragment=fragment)


@router.get("/e/{slug}/leaderboard.{file_format}")
def leaderboard_file(
    context: Context,
    slug: str,
    file_format: str,
    weight_class: Annotated[str, Query(alias="class")] = "",
    kind: str = "daily",
    side: str = "public",
) -> Response:
    """A leaderboard as CSV, JSON or Parquet."""
    require_format(file_format)
    _, leaderboard = get_leaderboard(context, slug, weight_class, kind, side)
    return file_response(
        encode_table(leaderboard_table(leaderboard), file_format),
        f"leaderboard-{slug}-{weight_class or 'all'}.{file_format}",
        FORMATS[file_format],
    )


def require_format(file_format: str) -> None:
    """Raise RequestProblem for a file format that is not offered."""
    if file_format not in FORMATS:
        raise not_found(f"file format; choose one of {', '.join(FORMATS)}")


def file_response(content: bytes, name: str, media_type: str) -> Response:
    """A download."""
    return Response(
        content, media_type=media_type, headers={"Content-Disposition": f'attachment; filename="{name}"'}
    )


@router.get("/e/{slug}/rules")
def rules_page(context: Context, slug: str) -> HTMLResponse:
    """An edition's rules, dates and judges."""
    with context.database.read() as session:
        edition = get_edition(session, slug)
        prompt_sets = session.scalars(
            select(PromptSet).where(PromptSet.edition_id == edition.id).order_by(PromptSet.appears)
        ).all()
    return context.render(
        "rules.html", edition=edition, prompt_sets=prompt_sets, judges=list_panel_judges(edition)
    )


@router.get("/e/{slug}/prompts/{kind}.csv")
def prompts_file(context: Context, slug: str, kind: str) -> Response:
    """A released prompt set as a submission file with empty completions."""
    with context.database.read() as session:
        edition = get_edition(session, slug)
        prompt_set = get_prompt_set(session, edition, kind, context.now)
        prompts = [prompt.text for prompt in prompt_set.prompts]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["prompt", "completion"])
    writer.writerows(
        [prompt, ""] for prompt in prompts for _ in range(get_rules(edition).completions_per_prompt)
    )
    return file_response(text.getvalue().encode(), f"{slug}-{kind}-prompts.csv", "text/csv; charset=utf-8")


@router.get("/e/{slug}/queue")
def queue_page(context: Context, slug: str) -> HTMLResponse:
    """The submissions that wait, those being judged, and the number of workers."""
    with context.database.read() as session:
        edition = get_edition(session, slug)
        jobs = (
            select(Job, Submission, Team)
            .join(Submission, Submission.id == Job.submission_id)
            .join(Team, Team.id == Submission.team_id)
            .where(Submission.edition_id == edition.id, Job.kind == "judge")
        )
        waiting = session.execute(jobs.where(Job.state == "waiting").order_by(Job.id).limit(100)).all()
        running = session.execute(jobs.where(Job.state == "running").order_by(Job.id)).all()
        finished = session.execute(
            jobs.where(Job.state.in_(["done", "failed"])).order_by(Job.id.desc()).limit(10)
        ).all()
        waiting_count = session.scalar(
            select(func.count()).select_from(jobs.where(Job.state == "waiting").subquery())
        )
        workers = list_live_workers(session, context.database)
    return context.render(
        "queue.html",
        edition=edition,
        waiting=waiting,
        running=running,
        finished=finished,
        waiting_count=waiting_count,
        workers=sum((context.now - worker.seen).total_seconds() < 60 for worker in workers),
    )
