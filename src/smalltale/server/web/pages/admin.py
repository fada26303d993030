"""Organisers' pages: teams to confirm, submissions to judge again or disqualify, appeals, accounts, the audit log.

Input: an organiser's forms. Output: the page with each field's problem, or a redirect after success.
Every change is written to the audit log in the same transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import HTMLResponse, Response
from sqlalchemy import func, select

from smalltale.server.accounts.accounts import invite_account
from smalltale.server.admin import (
    answer_appeal,
    change_account,
    count_unjudged,
    disqualify,
    queue_unjudged,
    rejudge,
    reset_password,
)
from smalltale.server.database.models import Appeal, Audit, Job, Person, Submission, Team
from smalltale.server.database.session import find_broken_audit_row, translate_audit
from smalltale.server.editions.editions import get_rules
from smalltale.server.editions.teams import moderate_team
from smalltale.server.errors import FORM_ERROR_STATUSES, RequestProblem
from smalltale.server.judging.queue import list_live_workers
from smalltale.server.verification.verification import request_model
from smalltale.server.web.context import Context, PageNumber, RequestContext, RowId
from smalltale.server.web.forms import Form, PostedForm, require_edition
from smalltale.server.web.pages.submissions import render_submission

router = APIRouter(include_in_schema=False, prefix="/organise")
ROWS_PER_PAGE = 100


@router.get("")
def overview_page(context: Context, page: PageNumber = 1) -> HTMLResponse:
    return render_overview(context, page=page)


def render_overview(
    context: RequestContext,
    *,
    page: int = 1,
    code: str = "",
    password: str = "",
    problem: RequestProblem | None = None,
    form_values: dict[str, str] | None = None,
    form_name: str = "",
) -> HTMLResponse:
    """Everything that waits for an organiser.

    A new invitation `code` or `password` is shown once. `form_name` says next to which form the problem is shown.
    """
    context.require_organiser()
    edition = require_edition(context)
    teams = select(Team).where(Team.edition_id == edition.id)
    with context.database.read() as session:
        page_teams = session.scalars(
            teams.order_by(Team.confirmed, Team.id).limit(ROWS_PER_PAGE).offset((page - 1) * ROWS_PER_PAGE)
        ).all()
        team_count = session.scalar(select(func.count()).select_from(teams.subquery())) or 0
        failing_jobs = session.execute(
            select(Submission, Team, Job)
            .join(Team, Team.id == Submission.team_id)
            .join(Job, Job.submission_id == Submission.id)
            .where(Submission.edition_id == edition.id, Job.kind == "judge", Job.error.is_not(None))
            .order_by(Submission.id.desc())
            .limit(ROWS_PER_PAGE)
        ).all()
        appeals = session.execute(
            select(Appeal, Submission, Team)
            .join(Submission, Submission.id == Appeal.submission_id)
            .join(Team, Team.id == Submission.team_id)
            .where(Submission.edition_id == edition.id)
            .order_by(Appeal.answered.is_not(None), Appeal.id.desc())
            .limit(ROWS_PER_PAGE)
        ).all()
        workers = list_live_workers(session, context.database)
        unjudged_count = count_unjudged(session, edition)
        special_accounts = session.scalars(
            select(Person).where(Person.admin | Person.disabled).order_by(Person.handle).limit(ROWS_PER_PAGE)
        ).all()
    return context.render(
        "organise.html",
        problem=problem,
        form_values=form_values,
        form_name=form_name,
        teams=page_teams,
        weight_classes=[weight_class.name for weight_class in get_rules(edition).weight_classes],
        failing_jobs=failing_jobs,
        appeals=appeals,
        workers=workers,
        unjudged_count=unjudged_count,
        special_accounts=special_accounts,
        code=code,
        password=password,
        page=page,
        pages=max(1, -(-team_count // ROWS_PER_PAGE)),
    )


def apply_action(
    form: PostedForm, form_name: str, action: Callable[..., object], *arguments: Any, **options: Any
) -> Response:
    """Call an action with the database, the organiser and the arguments; on a problem, show it next to the form."""
    organiser = form.context.require_organiser()
    try:
        action(form.context.database, organiser, *arguments, **options)
    except RequestProblem as problem:
        if problem.status not in FORM_ERROR_STATUSES and not problem.fields:
            raise
        return render_overview(form.context, problem=problem, form_values=form.fields, form_name=form_name)
    return form.context.redirect("/organise")


@router.post("/invitations")
def create_invitation(form: Form) -> HTMLResponse:
    """Create an account invitation."""
    organiser = form.context.require_organiser()
    code = invite_account(form.context.database, organiser.handle, admin=form["admin"] == "yes")
    return render_overview(form.context, code=code)


@router.post("/accounts")
def update_account(form: Form) -> Response:
    """Close or reopen an account, grant or revoke the organiser role, or set a new password."""
    context, action = form.context, form["act"]
    organiser = context.require_organiser()
    if action != "password":
        return apply_action(form, "accounts", change_account, form["handle"], action)
    try:
        password = reset_password(context.database, organiser, form["handle"])
    except RequestProblem as problem:
        if not problem.fields:
            raise
        return render_overview(context, problem=problem, form_values=form.fields, form_name="accounts")
    return render_overview(context, password=password, form_values=form.fields)


@router.post("/judging")
def judge_submissions(form: Form) -> Response:
    """Queue every submission that the edition's current panel has not judged."""
    return apply_action(form, "judging", queue_unjudged, require_edition(form.context))


@router.post("/teams/{team_id}")
def update_team(form: Form, team_id: RowId) -> Response:
    """Confirm a team's weight class, disqualify the team, or reinstate it."""
    action = form["do"]
    return apply_action(
        form,
        f"team {team_id}",
        moderate_team,
        team_id,
        weight_class=form["weight_class"] if action == "confirm" else None,
        disqualified=form["reason"] if action == "disqualify" else None,
        reinstated=action == "reinstate",
    )


@router.post("/submissions/{submission_id}")
@router.post("/hand-ins/{submission_id}")
def update_submission(form: Form, submission_id: RowId) -> Response:
    """Judge a submission again, request its model, disqualify it with a reason, or reinstate it."""
    context, action = form.context, form["do"]
    organiser = context.require_organiser()
    try:
        if action == "judge":
            rejudge(context.database, organiser, submission_id, form["panel"] or None)
        elif action == "model":
            request_model(context.database, organiser, submission_id)
        else:
            reason = form["reason"] if action == "disqualify" else None
            disqualify(context.database, organiser, submission_id, reason)
    except RequestProblem as problem:
        if problem.status not in FORM_ERROR_STATUSES:
            raise
        return render_submission(context, submission_id, problem=problem, form_values=form.fields)
    return context.redirect(f"/submissions/{submission_id}")


@router.post("/appeals/{appeal_id}")
def update_appeal(form: Form, appeal_id: RowId) -> Response:
    return apply_action(form, f"appeal {appeal_id}", answer_appeal, appeal_id, form["answer"])


@router.get("/audit")
def audit_page(
    context: Context, page: PageNumber = 1, action: Annotated[str, Query(max_length=40)] = ""
) -> HTMLResponse:
    """The audit log, newest first."""
    context.require_organiser()
    query = select(Audit).order_by(Audit.id.desc())
    if action:
        query = query.where(Audit.action == action)
    with context.database.read() as session:
        rows = session.scalars(query.limit(ROWS_PER_PAGE).offset((page - 1) * ROWS_PER_PAGE)).all()
        broken_row = find_broken_audit_row(session) if page == 1 and not action else None
    has_more = len(rows) == ROWS_PER_PAGE
    return context.render(
        "audit.html",
        rows=rows,
        page=page,
        has_more=has_more,
        action=action,
        broken_row=broken_row,
        translate_audit=translate_audit,
    )
