"""What organisers do: judge again, disqualify with a reason, answer appeals, close and open accounts.

In: an organiser. Out: changed rows and an audit row.
Beware: nothing is deleted; a disqualified hand-in keeps its scores and leaves the leaderboards.
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
    """Raise Problem for who is no organiser."""
    if not person.admin:
        raise forbidden("only organisers may do this")


def check_text(reason: str, most: int, mend: str, field: str = "reason") -> str:
    """What an organiser wrote, tidied. Raises Problem where it says nothing or too much."""
    tidy = reason.strip()
    if not 3 <= len(tidy) <= most:
        raise invalid_field(field, f"it has {len(tidy)} characters", f"write 3 to {most:,}: {mend}")
    return tidy


def rejudge(database: Database, organiser: Person, submission_id: int, panel: str | None = None) -> None:
    """Queue a hand-in again: with the same panel to fill what is missing, or with another of the edition, kept beside it.

    A hand-in that is judged stays so meanwhile. Raises Problem.
    """
    require_organiser(organiser)
    with database.write() as session:
        hand_in = session.get(Submission, submission_id)
        if hand_in is None:
            raise not_found("hand-in")
        edition = session.get_one(Edition, hand_in.edition_id)
        panel = panel or edition.panel
        if panel not in {*edition.panels, edition.panel}:
            known = ", ".join({**edition.panels, edition.panel: None})
            raise invalid_field(
                "panel",
                f"{escape_unprintable(panel)} is no panel of {edition.title}",
                f"choose one of: {known}",
            )
        job = session.scalar(select(Job).where(Job.key == f"judge:{submission_id}:{panel}"))
        if job is None:
            queue_judging(session, database, hand_in, panel)
        elif job.state in {"done", "failed"}:
            session.execute(
                delete(JudgementRow).where(
                    JudgementRow.submission_id == submission_id,
                    JudgementRow.panel == panel,
                    JudgementRow.state != "ok",
                )
            )
            job.state, job.attempts, job.error, job.run_after = "waiting", 0, None, database.now()
        if hand_in.state != "judged":
            hand_in.state = "queued"
        append_audit(
            session, database.now(), organiser.handle, "judged again", f"hand-in {submission_id}", panel=panel
        )


def select_unjudged(edition: Edition) -> Select[Any]:
    """Hand-ins that the edition's panel has not been asked about: those from before it became the panel."""
    asked = select(Job.id).where(
        Job.submission_id == Submission.id, Job.kind == "judge", Job.panel == edition.panel
    )
    loaded = select(JudgementRow.completion_id).where(
        JudgementRow.submission_id == Submission.id, JudgementRow.panel == edition.panel
    )
    return select(Submission).where(Submission.edition_id == edition.id, ~asked.exists(), ~loaded.exists())


def count_unjudged(session: Session, edition: Edition) -> int:
    """How many hand-ins the edition's panel has not been asked about."""
    return session.scalar(select(func.count()).select_from(select_unjudged(edition).subquery())) or 0


def queue_unjudged(database: Database, organiser: Person, edition: Edition) -> int:
    """Queue every hand-in that the edition's panel has not been asked about. Returns how many. Raises Problem."""
    require_organiser(organiser)
    with database.write() as session:
        waiting = session.scalars(select_unjudged(edition).order_by(Submission.id)).all()
        for each in waiting:
            queue_judging(session, database, each, edition.panel)
        append_audit(
            session,
            database.now(),
            organiser.handle,
            "all judged anew",
            edition.slug,
            panel=edition.panel,
            hand_ins=len(waiting),
        )
        return len(waiting)


def disqualify(database: Database, organiser: Person, submission_id: int, reason: str | None) -> None:
    """Take a hand-in off the leaderboards with a reason; None brings it back. Raises Problem."""
    require_organiser(organiser)
    stands = None if reason is None else check_text(reason, 500, "the team reads it")
    with database.write() as session:
        found = session.get(Submission, submission_id)
        if found is None:
            raise not_found("hand-in")
        found.disqualified = stands
        session.get_one(Edition, found.edition_id).revision += 1
        action = "disqualified" if stands else "disqualification undone"
        append_audit(
            session, database.now(), organiser.handle, action, f"hand-in {submission_id}", reason=stands
        )


def answer_appeal(database: Database, organiser: Person, appeal_id: int, answer: str) -> None:
    """Answer an appeal. Raises Problem."""
    require_organiser(organiser)
    told = check_text(answer, 2000, "what was found and decided", "answer")
    with database.write() as session:
        found = session.get(Appeal, appeal_id)
        if found is None:
            raise not_found("appeal")
        found.answer, found.answered = told, database.now()
        append_audit(
            session,
            database.now(),
            organiser.handle,
            "appeal answered",
            f"hand-in {found.submission_id}",
            answer=found.answer,
        )


def reset_password(database: Database, organiser: Person, handle: str) -> str:
    """Give a local account a new password, shown once, for who has forgotten theirs. Raises Problem."""
    require_organiser(organiser)
    password = secrets.token_urlsafe(12)
    with database.write() as session:
        found = find_account(session, handle)
        if found.password is None:
            raise invalid_field(
                "handle", f"{found.handle} signs in through {found.provider or 'nothing'}", status=409
            )
        set_password(session, found, password)
        append_audit(session, database.now(), organiser.handle, "password reset", found.handle)
    return password


ACCOUNT_ACTIONS = {
    "close": ("disabled", True, "account closed"),
    "open": ("disabled", False, "account opened"),
    "promote": ("admin", True, "made an organiser"),
    "demote": ("admin", False, "no longer an organiser"),
}


def change_account(database: Database, organiser: Person, handle: str, act: str) -> None:
    """Close or open somebody's account, make them an organiser or no longer one. Raises Problem."""
    require_organiser(organiser)
    if act not in ACCOUNT_ACTIONS:
        raise invalid_field(
            "act", f"{escape_unprintable(act) or 'nothing'}", f"choose one of: {', '.join(ACCOUNT_ACTIONS)}"
        )
    column, value, told = ACCOUNT_ACTIONS[act]
    with database.write() as session:
        found = find_account(session, handle)
        if found.id == organiser.id:
            raise invalid_field("handle", "that is yourself", "ask another organiser", 409)
        setattr(found, column, value)
        append_audit(session, database.now(), organiser.handle, told, found.handle)


def find_account(session: Session, handle: str) -> Person:
    """The person of that handle. Raises Problem."""
    found = session.scalar(select(Person).where(Person.handle == handle.strip().lower()))
    if found is None:
        raise invalid_field(
            "handle",
            f"nobody here is called {escape_unprintable(handle) or 'nothing'}",
            "write the handle",
            404,
        )
    return found
