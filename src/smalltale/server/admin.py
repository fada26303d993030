"""Actions of organisers: judge again, disqualify with a reason, answer appeals, close and reopen accounts.

Input: an organiser. Output: changed rows, and a row in the audit log.
Note: no submission is deleted; a disqualified one keeps its scores and leaves the leaderboards.
"""

from __future__ import annotations

import secrets
from typing import Any

from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session

from smalltale.server.accounts.accounts import escape_unprintable
from smalltale.server.accounts.passwords import set_password
from smalltale.server.database.models import Appeal, Edition, Job, JudgementRow, Person, Submission
from smalltale.server.database.session import Database, append_audit
from smalltale.server.errors import forbidden, invalid_field, not_found
from smalltale.server.judging.queue import queue_judging


def require_organiser(person: Person) -> None:
    """Raise RequestProblem 403 unless the person is an organiser."""
    if not person.admin:
        raise forbidden("only organisers may do this")


def check_text(text: str, max_characters: int, purpose: str, field: str = "reason") -> str:
    """An organiser's text without surrounding space. Raises RequestProblem if it is too short or too long."""
    text = text.strip()
    if not 3 <= len(text) <= max_characters:
        fix = f"write 3 to {max_characters:,}: {purpose}"
        raise invalid_field(field, f"it has {len(text)} characters", fix)
    return text


def rejudge(database: Database, organiser: Person, submission_id: int, panel: str | None = None) -> None:
    """Queue a submission for its panel again, which fills in missing judgements, or for another panel of the edition.

    Scores of another panel are added to the existing ones. A judged submission stays judged meanwhile. Raises RequestProblem.
    """
    require_organiser(organiser)
    with database.write() as session:
        submission = session.get(Submission, submission_id)
        if submission is None:
            raise not_found("submission")
        edition = session.get_one(Edition, submission.edition_id)
        panel, panels = panel or edition.panel, {**edition.panels, edition.panel: None}
        if panel not in panels:
            message = f"{escape_unprintable(panel)} is not a panel of {edition.title}"
            raise invalid_field("panel", message, f"choose one of: {', '.join(panels)}")
        job = session.scalar(select(Job).where(Job.key == f"judge:{submission_id}:{panel}"))
        if job is None:
            queue_judging(session, database, submission, panel)
        elif job.state in {"done", "failed"}:
            session.execute(
                delete(JudgementRow).where(
                    JudgementRow.submission_id == submission_id,
                    JudgementRow.panel == panel,
                    JudgementRow.state != "ok",
                )
            )
            job.state, job.attempts, job.error, job.run_after = "waiting", 0, None, database.now()
        if submission.state != "judged":
            submission.state = "queued"
        append_audit(
            session, database.now(), organiser.handle, "judged again", f"hand-in {submission_id}", panel=panel
        )


def select_unjudged(edition: Edition) -> Select[Any]:
    """Submissions that the edition's panel has not judged and that are not queued for it: they are older than the panel."""
    queued = select(Job.id).where(
        Job.submission_id == Submission.id, Job.kind == "judge", Job.panel == edition.panel
    )
    judged = select(JudgementRow.completion_id).where(
        JudgementRow.submission_id == Submission.id, JudgementRow.panel == edition.panel
    )
    return select(Submission).where(Submission.edition_id == edition.id, ~queued.exists(), ~judged.exists())


def count_unjudged(session: Session, edition: Edition) -> int:
    """The number of submissions that `queue_unjudged` would queue."""
    return session.scalar(select(func.count()).select_from(select_unjudged(edition).subquery())) or 0


def queue_unjudged(database: Database, organiser: Person, edition: Edition) -> int:
    """Queue the submissions that the edition's panel has not judged. Returns their number. Raises RequestProblem."""
    require_organiser(organiser)
    with database.write() as session:
        submissions = session.scalars(select_unjudged(edition).order_by(Submission.id)).all()
        for submission in submissions:
            queue_judging(session, database, submission, edition.panel)
        detail = {"panel": edition.panel, "hand_ins": len(submissions)}
        append_audit(session, database.now(), organiser.handle, "all judged again", edition.slug, **detail)
        return len(submissions)


def disqualify(database: Database, organiser: Person, submission_id: int, reason: str | None) -> None:
    """Take a submission off the leaderboards with a reason; None reinstates it. Raises RequestProblem."""
    require_organiser(organiser)
    reason = None if reason is None else check_text(reason, 500, "the team reads it")
    with database.write() as session:
        submission = session.get(Submission, submission_id)
        if submission is None:
            raise not_found("submission")
        submission.disqualified = reason
        session.get_one(Edition, submission.edition_id).revision += 1
        action = "disqualified" if reason else "disqualification undone"
        append_audit(
            session, database.now(), organiser.handle, action, f"hand-in {submission_id}", reason=reason
        )


def answer_appeal(database: Database, organiser: Person, appeal_id: int, answer: str) -> None:
    """Answer an appeal. Raises RequestProblem."""
    require_organiser(organiser)
    answer = check_text(answer, 2000, "what you found and decided", "answer")
    with database.write() as session:
        appeal = session.get(Appeal, appeal_id)
        if appeal is None:
            raise not_found("appeal")
        appeal.answer, appeal.answered = answer, database.now()
        subject = f"hand-in {appeal.submission_id}"
        append_audit(session, database.now(), organiser.handle, "appeal answered", subject, answer=answer)


def reset_password(database: Database, organiser: Person, handle: str) -> str:
    """Give a local account a new password, which can be shown only now. Raises RequestProblem."""
    require_organiser(organiser)
    password = secrets.token_urlsafe(12)
    with database.write() as session:
        account = find_account(session, handle)
        if account.password is None:
            message = (
                f"{account.handle} signs in through {account.provider or 'no provider'} and has no password"
            )
            raise invalid_field("handle", message, status=409)
        set_password(session, account, password)
        append_audit(session, database.now(), organiser.handle, "password reset", account.handle)
    return password


ACCOUNT_ACTIONS = {
    "close": ("disabled", True, "account closed"),
    "open": ("disabled", False, "account opened"),
    "promote": ("admin", True, "made an organiser"),
    "demote": ("admin", False, "no longer an organiser"),
}
"""By the form's action: the column, its new value, and the action in the audit log."""


def change_account(database: Database, organiser: Person, handle: str, action: str) -> None:
    """Carry out one of ACCOUNT_ACTIONS on a person's account. Raises RequestProblem."""
    require_organiser(organiser)
    if action not in ACCOUNT_ACTIONS:
        message = f"{escape_unprintable(action)} is not an action"
        raise invalid_field("act", message, f"choose one of: {', '.join(ACCOUNT_ACTIONS)}")
    column, value, audit_action = ACCOUNT_ACTIONS[action]
    with database.write() as session:
        account = find_account(session, handle)
        if account.id == organiser.id:
            raise invalid_field("handle", "that is your own account", "ask another organiser", 409)
        setattr(account, column, value)
        append_audit(session, database.now(), organiser.handle, audit_action, account.handle)


def find_account(session: Session, handle: str) -> Person:
    """The person with this handle. Raises RequestProblem 404."""
    person = session.scalar(select(Person).where(Person.handle == handle.strip().lower()))
    if person is None:
        message = f"no account has the handle {escape_unprintable(handle)}"
        raise invalid_field("handle", message, "check the spelling", 404)
    return person
