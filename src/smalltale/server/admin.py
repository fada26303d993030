"""What organisers do: judge again, disqualify with a reason, answer appeals, close and open accounts.

In: an organiser. Out: changed rows and an audit row.
Beware: nothing is deleted; a disqualified hand-in keeps its scores and leaves the leaderboards.
"""

from __future__ import annotations

import secrets
from typing import Any

from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session

from smalltale.server.accounts.accounts import visible
from smalltale.server.accounts.passwords import set_password
from smalltale.server.database.models import Appeal, Edition, HandIn, Job, Judgement, Person
from smalltale.server.database.session import Store, audit
from smalltale.server.errors import forbidden, missing, refused
from smalltale.server.judging.queue import queue_judging


def refuse_others(person: Person) -> None:
    """Raise Problem for who is no organiser."""
    if not person.admin:
        raise forbidden("only organisers may do this")


def stated(reason: str, most: int, mend: str, field: str = "reason") -> str:
    """What an organiser wrote, tidied. Raises Problem where it says nothing or too much."""
    tidy = reason.strip()
    if not 3 <= len(tidy) <= most:
        raise refused(field, f"it has {len(tidy)} characters", f"write 3 to {most:,}: {mend}")
    return tidy


def rejudge(store: Store, organiser: Person, hand_in_id: int, panel: str | None = None) -> None:
    """Queue a hand-in again: with the same panel to fill what is missing, or with another of the edition, kept beside it.

    A hand-in that is judged stays so meanwhile. Raises Problem.
    """
    refuse_others(organiser)
    with store.write() as session:
        hand_in = session.get(HandIn, hand_in_id)
        if hand_in is None:
            raise missing("hand-in")
        edition = session.get_one(Edition, hand_in.edition_id)
        panel = panel or edition.panel
        if panel not in {*edition.panels, edition.panel}:
            known = ", ".join({**edition.panels, edition.panel: None})
            raise refused(
                "panel", f"{visible(panel)} is no panel of {edition.title}", f"choose one of: {known}"
            )
        job = session.scalar(select(Job).where(Job.key == f"judge:{hand_in_id}:{panel}"))
        if job is None:
            queue_judging(session, store, hand_in, panel)
        elif job.state in {"done", "failed"}:
            session.execute(
                delete(Judgement).where(
                    Judgement.hand_in_id == hand_in_id, Judgement.panel == panel, Judgement.state != "ok"
                )
            )
            job.state, job.attempts, job.error, job.run_after = "waiting", 0, None, store.now()
        if hand_in.state != "judged":
            hand_in.state = "queued"
        audit(session, store.now(), organiser.handle, "judged again", f"hand-in {hand_in_id}", panel=panel)


def unheard(edition: Edition) -> Select[Any]:
    """Hand-ins that the edition's panel has not been asked about: those from before it became the panel."""
    asked = select(Job.id).where(Job.hand_in_id == HandIn.id, Job.kind == "judge", Job.panel == edition.panel)
    loaded = select(Judgement.completion_id).where(
        Judgement.hand_in_id == HandIn.id, Judgement.panel == edition.panel
    )
    return select(HandIn).where(HandIn.edition_id == edition.id, ~asked.exists(), ~loaded.exists())


def count_unheard(session: Session, edition: Edition) -> int:
    """How many hand-ins the edition's panel has not been asked about."""
    return session.scalar(select(func.count()).select_from(unheard(edition).subquery())) or 0


def judge_all(store: Store, organiser: Person, edition: Edition) -> int:
    """Queue every hand-in that the edition's panel has not been asked about. Returns how many. Raises Problem."""
    refuse_others(organiser)
    with store.write() as session:
        waiting = session.scalars(unheard(edition).order_by(HandIn.id)).all()
        for each in waiting:
            queue_judging(session, store, each, edition.panel)
        audit(
            session,
            store.now(),
            organiser.handle,
            "all judged anew",
            edition.slug,
            panel=edition.panel,
            hand_ins=len(waiting),
        )
        return len(waiting)


def disqualify(store: Store, organiser: Person, hand_in_id: int, reason: str | None) -> None:
    """Take a hand-in off the leaderboards with a reason; None brings it back. Raises Problem."""
    refuse_others(organiser)
    stands = None if reason is None else stated(reason, 500, "the team reads it")
    with store.write() as session:
        found = session.get(HandIn, hand_in_id)
        if found is None:
            raise missing("hand-in")
        found.disqualified = stands
        session.get_one(Edition, found.edition_id).revision += 1
        action = "disqualified" if stands else "disqualification undone"
        audit(session, store.now(), organiser.handle, action, f"hand-in {hand_in_id}", reason=stands)


def answer_appeal(store: Store, organiser: Person, appeal_id: int, answer: str) -> None:
    """Answer an appeal. Raises Problem."""
    refuse_others(organiser)
    told = stated(answer, 2000, "what was found and decided", "answer")
    with store.write() as session:
        found = session.get(Appeal, appeal_id)
        if found is None:
            raise missing("appeal")
        found.answer, found.answered = told, store.now()
        audit(
            session,
            store.now(),
            organiser.handle,
            "appeal answered",
            f"hand-in {found.hand_in_id}",
            answer=found.answer,
        )


def reset_password(store: Store, organiser: Person, handle: str) -> str:
    """Give a local account a new password, shown once, for who has forgotten theirs. Raises Problem."""
    refuse_others(organiser)
    password = secrets.token_urlsafe(12)
    with store.write() as session:
        found = account_of(session, handle)
        if found.password is None:
            raise refused(
                "handle", f"{found.handle} signs in through {found.provider or 'nothing'}", status=409
            )
        set_password(session, found, password)
        audit(session, store.now(), organiser.handle, "password reset", found.handle)
    return password


ACCOUNT_ACTS = {
    "close": ("disabled", True, "account closed"),
    "open": ("disabled", False, "account opened"),
    "promote": ("admin", True, "made an organiser"),
    "demote": ("admin", False, "no longer an organiser"),
}


def change_account(store: Store, organiser: Person, handle: str, act: str) -> None:
    """Close or open somebody's account, make them an organiser or no longer one. Raises Problem."""
    refuse_others(organiser)
    if act not in ACCOUNT_ACTS:
        raise refused("act", f"{visible(act) or 'nothing'}", f"choose one of: {', '.join(ACCOUNT_ACTS)}")
    column, value, told = ACCOUNT_ACTS[act]
    with store.write() as session:
        found = account_of(session, handle)
        if found.id == organiser.id:
            raise refused("handle", "that is yourself", "ask another organiser", 409)
        setattr(found, column, value)
        audit(session, store.now(), organiser.handle, told, found.handle)


def account_of(session: Session, handle: str) -> Person:
    """The person of that handle. Raises Problem."""
    found = session.scalar(select(Person).where(Person.handle == handle.strip().lower()))
    if found is None:
        raise refused(
            "handle", f"nobody here is called {visible(handle) or 'nothing'}", "write the handle", 404
        )
    return found
