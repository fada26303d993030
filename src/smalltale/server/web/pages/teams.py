"""Pages of a team's members: the team, its invitations, the submission form and appeals.

Input: forms. Output: the page with each field's problem and the values entered, or a redirect after success.
Pitfall: a browser does not send a chosen file back into a form, so after an error the file must be chosen again; the form says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from smalltale.server.database.models import (
    Appeal,
    Edition,
    Person,
    PromptSet,
    Submission,
    Team,
    TeamInvitation,
)
from smalltale.server.database.session import append_audit
from smalltale.server.editions import teams
from smalltale.server.editions.editions import get_rules
from smalltale.server.errors import FORM_ERROR_STATUSES, FieldProblem, RequestProblem, invalid_field
from smalltale.server.judging.queue import get_queue_position
from smalltale.server.submissions.declaration import Declaration
from smalltale.server.submissions.receive import (
    check_upload,
    receive_submission,
    require_free_slot,
    require_open,
)
from smalltale.server.submissions.visibility import view_submission
from smalltale.server.web.context import Context, RequestContext, RowId
from smalltale.server.web.forms import Form, PostedForm, require_edition
from smalltale.server.web.pages.submissions import render_submission

router = APIRouter(include_in_schema=False)


@router.get("/team")
def team_page(context: Context) -> HTMLResponse:
    """The team of the person signed in, in the current edition."""
    return render_team(context)


def render_team(
    context: RequestContext,
    *,
    problem: RequestProblem | None = None,
    form_values: dict[str, str] | None = None,
) -> HTMLResponse:
    """The team page, with the problem of one of its forms."""
    person, edition = context.require_person(), require_edition(context)
    members: Sequence[Person] = []
    invited_handles: Sequence[str] = []
    submissions: Sequence[Submission] = []
    with context.database.read() as session:
        invitations = teams.list_invitations(session, edition, person)
        team = teams.find_team(session, edition, person)
        if team is not None:
            members = teams.list_members(session, team)
            invited_handles = session.scalars(
                select(Person.handle)
                .join(TeamInvitation, TeamInvitation.person_id == Person.id)
                .where(TeamInvitation.team_id == team.id, TeamInvitation.answer.is_(None))
            ).all()
            submissions = session.scalars(
                select(Submission).where(Submission.team_id == team.id).order_by(Submission.id.desc())
            ).all()
        queue_positions = {
            submission.id: get_queue_position(session, submission.id)
            for submission in submissions
            if submission.state == "queued"
        }
    return context.render(
        "team.html",
        problem=problem,
        form_values=form_values,
        team=team,
        members=members,
        invitations=invitations,
        invited_handles=invited_handles,
        submissions=submissions,
        queue_positions=queue_positions,
        lock=get_rules(edition).teams_lock(),
    )


def apply_action(form: PostedForm, action: Callable[..., object], *arguments: Any) -> Response:
    """Call an action with the database, edition, person and arguments; on a problem, show the team page with it."""
    context = form.context
    person = context.require_person()
    try:
        action(context.database, require_edition(context), person, *arguments)
    except RequestProblem as problem:
        return render_team(context, problem=problem, form_values=form.fields)
    return context.redirect("/team")


@router.post("/team")
def create_team(form: Form) -> Response:
    return apply_action(form, teams.create_team, form["name"], form["hardware"])


@router.post("/team/invite")
def invite_member(form: Form) -> Response:
    return apply_action(form, teams.invite_member, form["handle"])


@router.post("/team/invitations/{invitation_id}")
def answer_invitation(form: Form, invitation_id: RowId) -> Response:
    """Accept or decline an invitation."""
    return apply_action(form, teams.answer_invitation, invitation_id, form["answer"] == "accept")


@router.post("/team/leave")
def leave_team(form: Form) -> Response:
    return apply_action(form, teams.leave_team)


@router.get("/submit")
def submission_form_page(context: Context) -> HTMLResponse:
    return render_submission_form(context)


def render_submission_form(
    context: RequestContext,
    *,
    problem: RequestProblem | None = None,
    form_values: dict[str, str] | None = None,
    warnings: list[str] | None = None,
) -> HTMLResponse:
    """The submission form, with all of its problems; `warnings` is not None after a file passed the check."""
    person, edition = context.require_person(), require_edition(context)
    with context.database.read() as session:
        team = teams.find_team(session, edition, person)
        released = select(PromptSet.kind).where(
            PromptSet.edition_id == edition.id, PromptSet.appears <= context.now, PromptSet.kind != "practice"
        )
        kinds = session.scalars(released.order_by(PromptSet.kind)).all()
        refusals = explain_refusals(session, edition, team, kinds, context.now) if team else []
    return context.render(
        "submission_form.html",
        problem=problem,
        form_values=form_values,
        team=team,
        kinds=kinds,
        refusals=refusals,
        weight_classes=get_rules(edition).classes_open_to(team.weight_class) if team else [],
        warnings=warnings,
    )


def explain_refusals(
    session: Session, edition: Edition, team: Team, kinds: Sequence[str], now: datetime
) -> list[str]:
    """Why a submission would be refused now: the edition is closed, or the limit of a kind is reached."""
    checks = [
        partial(require_open, edition, now),
        *(partial(require_free_slot, session, get_rules(edition), team, kind, now) for kind in kinds),
    ]
    refusals = []
    for check in checks:
        try:
            check()
        except RequestProblem as problem:
            refusals.append(problem.title)
    return refusals


@router.post("/submit")
@router.post("/hand-in")
def submit(form: Form) -> Response:
    """Check a file, or receive it as a submission."""
    context, kind = form.context, form["kind"]
    person, edition = context.require_person(), require_edition(context)
    try:
        if form["do"] == "check":
            checked = check_upload(context.database, edition, kind, form.file_name, form.content)
            if checked.errors:
                problems = [FieldProblem("file", error) for error in checked.errors]
                raise RequestProblem(422, "this file would not be accepted", problems)
            return render_submission_form(context, form_values=form.fields, warnings=checked.warnings)
        submission = receive_submission(
            context.database, edition, person, kind, form.file_name, form.content, parse_declaration(form)
        )
    except RequestProblem as problem:
        return render_submission_form(context, problem=problem, form_values=form.fields)
    return context.redirect(f"/submissions/{submission.id}")


def parse_declaration(form: PostedForm) -> Declaration:
    return Declaration(
        weight_class=form["weight_class"],
        counted_parameters=form["counted_parameters"],
        model_hash=form["model_hash"],
        data=form["data"],
        sampling=form["sampling"],
        from_scratch=form["from_scratch"] in {"yes", "true", "on", "1"},
    )


@router.post("/submissions/{submission_id}/appeal")
@router.post("/hand-ins/{submission_id}/appeal")
def appeal(form: Form, submission_id: RowId) -> Response:
    """Ask the organisers to review a judged submission."""
    context = form.context
    person, text = context.require_person(), form["text"].strip()
    try:
        with context.database.write() as session:
            if not view_submission(session, submission_id, person, context.now).is_own_team:
                raise RequestProblem(403, "only the team itself may appeal")
            if not 10 <= len(text) <= 2000:
                raise invalid_field("text", f"it has {len(text)} characters", "write 10 to 2,000")
            if session.scalar(select(Appeal.id).where(Appeal.submission_id == submission_id)):
                raise RequestProblem(409, "your team has already appealed; the organisers will answer")
            session.add(
                Appeal(submission_id=submission_id, person_id=person.id, created=context.now, text=text)
            )
            append_audit(session, context.now, person.handle, "appealed", f"hand-in {submission_id}")
    except RequestProblem as problem:
        if problem.status not in FORM_ERROR_STATUSES:
            raise
        return render_submission(context, submission_id, problem=problem, form_values=form.fields)
    return context.redirect(f"/submissions/{submission_id}")
