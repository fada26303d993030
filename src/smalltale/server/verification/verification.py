"""Is a hand-in's model what was declared? Asked for, sent in pieces, looked at by a worker, told on every page.

In: a final hand-in's model, or one that an organiser asked for. Out: a Verification row, the count beside the hand-in.
Beware: every piece is a transaction of its own, so that a large model never holds the database; what was sent counts
only when its last transaction queued the job.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from smalltale.files import explained
from smalltale.server.admin import refuse_others
from smalltale.server.database.models import (
    Completion,
    Edition,
    HandIn,
    Member,
    ModelPiece,
    Person,
    Prompt,
    Verification,
)
from smalltale.server.database.session import Store, audit
from smalltale.server.editions.editions import rules_of
from smalltale.server.errors import FieldProblem, Problem, missing
from smalltale.server.judging.queue import Held, LeaseLost, finish, queue_verifying, renew
from smalltale.server.verification.model_uploads import Sent, check_files, forget, keep_pieces, sha256, unpack
from smalltale.server.verification.sandbox import (
    MODEL_FILES,
    WEIGHTS,
    Look,
    Stopped,
    look_at,
    look_at_stories,
    refuse_risky,
)
from smalltale.submission import Completion as Row


def wanted(hand_in: HandIn, found: Verification | None) -> bool:
    """Whether the team may send its model now: a finalist, or asked, and not verified yet."""
    if found is not None and found.state == "verified":
        return False
    return hand_in.kind == "final" or found is not None


def ask(store: Store, organiser: Person, hand_in_id: int) -> None:
    """Ask a team for its model, or have the model looked at again that is here. Raises Problem."""
    refuse_others(organiser)
    with store.write() as session:
        if session.get(HandIn, hand_in_id) is None:
            raise missing("hand-in")
        found = session.get(Verification, hand_in_id)
        if found is None:
            session.add(fresh(store, hand_in_id, asked_by=organiser.handle))
        elif found.upload is not None and doubtful(found):
            found.state, found.changed = "waiting", store.now()
            queue_verifying(session, store, hand_in_id, found.upload)
        else:
            return
        audit(session, store.now(), organiser.handle, "model asked for", f"hand-in {hand_in_id}")


def fresh(store: Store, hand_in_id: int, asked_by: str | None = None) -> Verification:
    """A row of which nothing is known yet."""
    return Verification(
        hand_in_id=hand_in_id,
        state="asked",
        asked_by=asked_by,
        files={},
        changed=store.now(),
        reasons=[],
        stories={},
    )


def model_json(hand_in: HandIn, found: Verification | None, *, whole: bool) -> dict[str, Any]:
    """What the API says of a hand-in's model; the reasons are for the team and the organisers."""
    return {
        "state": found.state if found is not None else None,
        "wanted": wanted(hand_in, found),
        "counted_parameters": found.counted if found is not None else None,
        "stories": found.stories.get("verdict") if found is not None else None,
        **({"reasons": found.reasons, "check": found.stories} if found is not None and whole else {}),
    }


def doubtful(found: Verification) -> bool:
    """Whether a worker has looked, and there is still something to ask."""
    return found.state in {"contradicted", "unproven"} or (
        found.state == "verified" and found.stories.get("verdict") != "plausible"
    )


def refuse_sender(store: Store, person: Person, hand_in_id: int) -> HandIn:
    """The hand-in, where this person may send its model now. Raises Problem, before anything large is read."""
    with store.read() as session:
        hand_in = session.get(HandIn, hand_in_id)
        if hand_in is None or not session.scalar(
            select(Member.person_id).where(Member.team_id == hand_in.team_id, Member.person_id == person.id)
        ):
            raise missing("hand-in")
        found = session.get(Verification, hand_in_id)
    if found is not None and found.state == "verified":
        raise Problem(409, "this hand-in's model is verified; nothing more is needed")
    if not wanted(hand_in, found):
        raise Problem(409, "models are sent with final hand-ins, and where an organiser asks for one")
    return hand_in


def send(store: Store, person: Person, hand_in_id: int, files: Sequence[Sent]) -> None:
    """Keep a model and queue its verification. Raises Problem with everything wrong with it; then nothing is kept."""
    hand_in = refuse_sender(store, person, hand_in_id)
    with store.read() as session:
        rules = rules_of(session.get_one(Edition, hand_in.edition_id))
    problems = check_files(files, rules)
    if problems:
        raise Problem(422, "this model was not accepted", problems)
    hashes = {each.name: sha256(each.content) for each in files}
    if hashes[WEIGHTS] != hand_in.model_hash:
        raise Problem(
            422,
            "this model was not accepted",
            [
                FieldProblem(
                    WEIGHTS,
                    f"its SHA-256 is {hashes[WEIGHTS]}, declared was {hand_in.model_hash}",
                    "send the model that wrote the stories",
                )
            ],
        )
    upload = secrets.token_hex(16)
    count = keep_pieces(store, hand_in_id, upload, files)
    with store.write() as session:
        kept = select(func.count()).select_from(ModelPiece).where(ModelPiece.upload == upload)
        found = session.get(Verification, hand_in_id)
        if session.scalar(kept) != count or (found is not None and found.state == "verified"):
            raise Problem(409, "another model was sent for this hand-in meanwhile; look at its page")
        if found is None:
            found = fresh(store, hand_in_id)
            session.add(found)
        found.state, found.upload, found.changed = "waiting", upload, store.now()
        found.files = {each.name: {"bytes": each.size, "sha256": hashes[each.name]} for each in files}
        found.counted, found.reasons, found.stories = None, [], {}
        forget(session, hand_in_id, but=upload)
        queue_verifying(session, store, hand_in_id, upload)
        audit(session, store.now(), person.handle, "model sent", f"hand-in {hand_in_id}", files=found.files)


def verify_upload(store: Store, job: Held, name: str, lost: threading.Event) -> None:
    """A worker's part: write the model to a folder of its own, look at it, keep the verdict."""
    with tempfile.TemporaryDirectory(prefix="smalltale-model-") as place:
        with store.read() as session:
            files = dict(session.get_one(Verification, job.hand_in_id).files)
        unpack(store, job.panel, files, Path(place))
        try:
            found = look(store, job.hand_in_id, Path(place), stop=lost)
        except Stopped as error:
            raise LeaseLost from error
    with store.write() as session:
        renew(session, store, job, name)
        row = session.get_one(Verification, job.hand_in_id)
        if row.upload == job.panel:
            keep(session, store, row, "worker", found)
        finish(session, job)


def look(
    store: Store,
    hand_in_id: int,
    folder: Path,
    *,
    frozen: Sequence[str] = (),
    stop: threading.Event | None = None,
) -> Look:
    """What a folder's model is, held against a hand-in's declaration."""
    with store.read() as session:
        hand_in = session.get(HandIn, hand_in_id)
        if hand_in is None:
            raise missing("hand-in")
        rules = session.get_one(Edition, hand_in.edition_id).toml
        rows = session.execute(
            select(Prompt.text, Completion.text)
            .join(Prompt, Prompt.id == Completion.prompt_id)
            .where(Completion.hand_in_id == hand_in_id)
            .order_by(Prompt.position, Completion.sample)
        ).all()
    refuse_risky(folder)
    found = look_at(folder, claim_of(hand_in), rules, frozen=frozen, stop=stop)
    if found.verdict == "contradicted":
        return found
    sampling = str(hand_in.declaration.get("sampling", ""))
    stories = look_at_stories(folder, [Row(*each) for each in rows], sampling, stop=stop)
    return replace(found, stories=stories)


def claim_of(hand_in: HandIn) -> dict[str, Any]:
    """A declaration as `smalltale count --verify` reads it."""
    return {
        "counted_parameters": hand_in.counted_parameters,
        "model_hash": hand_in.model_hash,
        "weight_class": hand_in.weight_class,
    }


def verify_folder(
    store: Store, organiser: str, hand_in_id: int, folder: Path, frozen: Sequence[str] = ()
) -> Look:
    """An organiser's own look at a model that lies here as a folder. Raises SmalltaleError where it cannot be looked at."""
    with tempfile.TemporaryDirectory(prefix="smalltale-model-") as place:
        refuse_risky(folder)
        for name in MODEL_FILES:
            if (folder / name).is_file():
                with explained(folder / name):
                    shutil.copyfile(folder / name, Path(place) / name)
        found = look(store, hand_in_id, Path(place), frozen=frozen)
    with store.write() as session:
        row = session.get(Verification, hand_in_id)
        if row is None:
            row = fresh(store, hand_in_id)
            session.add(row)
        keep(session, store, row, organiser, found)
    return found


def keep(session: Session, store: Store, row: Verification, by: str, found: Look) -> None:
    """Write a verdict where pages and leaderboards read it; bytes that leave no question are no longer needed."""
    hand_in = session.get_one(HandIn, row.hand_in_id)
    row.state, row.counted, row.reasons = (
        found.verdict,
        found.counted,
        [each.replace("\x00", "")[:500] for each in found.reasons],
    )
    row.stories, row.changed = found.stories, store.now()
    hand_in.verified_parameters = found.counted if found.verdict == "verified" else None
    session.get_one(Edition, hand_in.edition_id).revision += 1
    if found.verdict == "verified" and found.stories.get("verdict") == "plausible":
        forget(session, hand_in.id)
    audit(
        session,
        store.now(),
        by,
        f"model {found.verdict}",
        f"hand-in {hand_in.id}",
        counted=found.counted,
        claimed=hand_in.counted_parameters,
        reasons=row.reasons,
        stories=found.stories.get("verdict"),
    )


def give_up_verifying(session: Session, store: Store, job: Held, error: str) -> None:
    """After the last attempt: unproven, with what was in the way."""
    row = session.get_one(Verification, job.hand_in_id)
    if row.upload == job.panel:
        keep(session, store, row, "worker", Look(verdict="unproven", counted=None, reasons=[error]))
    finish(session, job, error[:500])
