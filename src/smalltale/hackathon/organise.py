"""What organisers do to hand-ins: disqualify with a reason, answer appeals.

In: an organiser. Out: changed rows and an audit row.
Beware: nothing is deleted; a disqualified hand-in keeps its scores and leaves the leaderboards.
"""

from __future__ import annotations

from smalltale.hackathon.problems import forbidden, missing, refused
from smalltale.hackathon.store import Store, audit
from smalltale.hackathon.tables import Appeal, Edition, HandIn, Person


def disqualify(store: Store, organiser: Person, hand_in_id: int, reason: str) -> None:
    """Take a hand-in off the leaderboards with a reason; an empty one brings it back. Raises Problem."""
    if not organiser.admin:
        raise forbidden("only organisers may do this")
    with store.write() as session:
        found = session.get(HandIn, hand_in_id)
        if found is None:
            raise missing("hand-in")
        found.disqualified = reason.strip()[:500] or None
        session.get_one(Edition, found.edition_id).revision += 1
        action = "disqualified" if found.disqualified else "disqualification undone"
        audit(session, store.now(), organiser.handle, action, f"hand-in {hand_in_id}", reason=reason[:500])


def answer_appeal(store: Store, organiser: Person, appeal_id: int, answer: str) -> None:
    """Answer an appeal once. Raises Problem."""
    if not organiser.admin:
        raise forbidden("only organisers may do this")
    if not answer.strip():
        raise refused("answer", "it is empty", "write what was found and decided")
    with store.write() as session:
        found = session.get(Appeal, appeal_id)
        if found is None:
            raise missing("appeal")
        found.answer, found.answered = answer.strip()[:2000], store.now()
        audit(
            session,
            store.now(),
            organiser.handle,
            "appeal answered",
            f"hand-in {found.hand_in_id}",
            answer=found.answer,
        )
