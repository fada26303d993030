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

from smalltale.files import translate_os_errors
from smalltale.sandbox import SandboxStopped
from smalltale.server.admin import require_organiser
from smalltale.server.database.models import (
    CompletionRow,
    Edition,
    ModelChunk,
    Person,
    Prompt,
    Submission,
    TeamMember,
    Verification,
)
from smalltale.server.database.session import Database, append_audit
from smalltale.server.editions.editions import get_rules
from smalltale.server.errors import FieldProblem, RequestProblem, not_found
from smalltale.server.judging.queue import LeasedJob, LeaseLost, finish_job, queue_verification, renew_lease
from smalltale.server.verification.model_checks import (
    MODEL_FILES,
    WEIGHTS_FILE,
    VerificationResult,
    check_model_folder,
    check_stories,
    verify_model,
)
from smalltale.server.verification.model_uploads import (
    UploadedFile,
    check_files,
    delete_chunks,
    sha256,
    store_chunks,
    write_model_folder,
)
from smalltale.submission import Completion as Row


def is_model_wanted(hand_in: Submission, found: Verification | None) -> bool:
    """Whether the team may send its model now: a finalist, or asked, and not verified yet."""
    if found is not None and found.state == "verified":
        return False
    return hand_in.kind == "final" or found is not None


def request_model(database: Database, organiser: Person, submission_id: int) -> None:
    """Ask a team for its model, or have the model looked at again that is here. Raises Problem."""
    require_organiser(organiser)
    with database.write() as session:
        if session.get(Submission, submission_id) is None:
            raise not_found("hand-in")
        found = session.get(Verification, submission_id)
        if found is None:
            session.add(fresh(database, submission_id, asked_by=organiser.handle))
        elif found.upload is not None and is_doubtful(found):
            found.state, found.changed = "waiting", database.now()
            queue_verification(session, database, submission_id, found.upload)
        else:
            return
        append_audit(session, database.now(), organiser.handle, "model asked for", f"hand-in {submission_id}")


def fresh(database: Database, submission_id: int, asked_by: str | None = None) -> Verification:
    """A row of which nothing is known yet."""
    return Verification(
        submission_id=submission_id,
        state="asked",
        asked_by=asked_by,
        files={},
        changed=database.now(),
        reasons=[],
        stories={},
    )


def model_status(hand_in: Submission, found: Verification | None, *, whole: bool) -> dict[str, Any]:
    """What the API says of a hand-in's model; the reasons are for the team and the organisers."""
    return {
        "state": found.state if found is not None else None,
        "wanted": is_model_wanted(hand_in, found),
        "counted_parameters": found.counted if found is not None else None,
        "stories": found.stories.get("verdict") if found is not None else None,
        **({"reasons": found.reasons, "check": found.stories} if found is not None and whole else {}),
    }


def is_doubtful(found: Verification) -> bool:
    """Whether a worker has looked, and there is still something to ask."""
    return found.state in {"contradicted", "unproven"} or (
        found.state == "verified" and found.stories.get("verdict") != "plausible"
    )


def authorize_model_upload(database: Database, person: Person, submission_id: int) -> Submission:
    """The hand-in, where this person may send its model now. Raises Problem, before anything large is read."""
    with database.read() as session:
        hand_in = session.get(Submission, submission_id)
        if hand_in is None or not session.scalar(
            select(TeamMember.person_id).where(
                TeamMember.team_id == hand_in.team_id, TeamMember.person_id == person.id
            )
        ):
            raise not_found("hand-in")
        found = session.get(Verification, submission_id)
    if found is not None and found.state == "verified":
        raise RequestProblem(409, "this hand-in's model is verified; nothing more is needed")
    if not is_model_wanted(hand_in, found):
        raise RequestProblem(409, "models are sent with final hand-ins, and where an organiser asks for one")
    return hand_in


def receive_model(
    database: Database, person: Person, submission_id: int, files: Sequence[UploadedFile]
) -> None:
    """Keep a model and queue its verification. Raises Problem with everything wrong with it; then nothing is kept."""
    hand_in = authorize_model_upload(database, person, submission_id)
    with database.read() as session:
        rules = get_rules(session.get_one(Edition, hand_in.edition_id))
    problems = check_files(files, rules)
    if problems:
        raise RequestProblem(422, "this model was not accepted", problems)
    hashes = {each.name: sha256(each.content) for each in files}
    if hashes[WEIGHTS_FILE] != hand_in.model_hash:
        raise RequestProblem(
            422,
            "this model was not accepted",
            [
                FieldProblem(
                    WEIGHTS_FILE,
                    f"its SHA-256 is {hashes[WEIGHTS_FILE]}, declared was {hand_in.model_hash}",
                    "send the model that wrote the stories",
                )
            ],
        )
    upload = secrets.token_hex(16)
    count = store_chunks(database, submission_id, upload, files)
    with database.write() as session:
        kept = select(func.count()).select_from(ModelChunk).where(ModelChunk.upload == upload)
        found = session.get(Verification, submission_id)
        if session.scalar(kept) != count or (found is not None and found.state == "verified"):
            raise RequestProblem(409, "another model was sent for this hand-in meanwhile; look at its page")
        if found is None:
            found = fresh(database, submission_id)
            session.add(found)
        found.state, found.upload, found.changed = "waiting", upload, database.now()
        found.files = {each.name: {"bytes": each.size, "sha256": hashes[each.name]} for each in files}
        found.counted, found.reasons, found.stories = None, [], {}
        delete_chunks(session, submission_id, but=upload)
        queue_verification(session, database, submission_id, upload)
        append_audit(
            session,
            database.now(),
            person.handle,
            "model sent",
            f"hand-in {submission_id}",
            files=found.files,
        )


def verify_upload(database: Database, job: LeasedJob, name: str, lost: threading.Event) -> None:
    """A worker's part: write the model to a folder of its own, look at it, keep the verdict."""
    with tempfile.TemporaryDirectory(prefix="smalltale-model-") as place:
        with database.read() as session:
            files = dict(session.get_one(Verification, job.submission_id).files)
        write_model_folder(database, job.panel, files, Path(place))
        try:
            found = look(database, job.submission_id, Path(place), stop=lost)
        except SandboxStopped as error:
            raise LeaseLost from error
    with database.write() as session:
        renew_lease(session, database, job, name)
        row = session.get_one(Verification, job.submission_id)
        if row.upload == job.panel:
            keep(session, database, row, "worker", found)
        finish_job(session, job)


def look(
    database: Database,
    submission_id: int,
    folder: Path,
    *,
    frozen: Sequence[str] = (),
    stop: threading.Event | None = None,
) -> VerificationResult:
    """What a folder's model is, held against a hand-in's declaration."""
    with database.read() as session:
        hand_in = session.get(Submission, submission_id)
        if hand_in is None:
            raise not_found("hand-in")
        rules = session.get_one(Edition, hand_in.edition_id).toml
        rows = session.execute(
            select(Prompt.text, CompletionRow.text)
            .join(Prompt, Prompt.id == CompletionRow.prompt_id)
            .where(CompletionRow.submission_id == submission_id)
            .order_by(Prompt.position, CompletionRow.sample)
        ).all()
    check_model_folder(folder)
    found = verify_model(folder, claim_of(hand_in), rules, frozen=frozen, stop=stop)
    if found.verdict == "contradicted":
        return found
    sampling = str(hand_in.declaration.get("sampling", ""))
    stories = check_stories(folder, [Row(*each) for each in rows], sampling, stop=stop)
    return replace(found, stories=stories)


def claim_of(hand_in: Submission) -> dict[str, Any]:
    """A declaration as `smalltale count --verify` reads it."""
    return {
        "counted_parameters": hand_in.counted_parameters,
        "model_hash": hand_in.model_hash,
        "weight_class": hand_in.weight_class,
    }


def verify_folder(
    database: Database, organiser: str, submission_id: int, folder: Path, frozen: Sequence[str] = ()
) -> VerificationResult:
    """An organiser's own look at a model that lies here as a folder. Raises SmalltaleError where it cannot be looked at."""
    with tempfile.TemporaryDirectory(prefix="smalltale-model-") as place:
        check_model_folder(folder)
        for name in MODEL_FILES:
            if (folder / name).is_file():
                with translate_os_errors(folder / name):
                    shutil.copyfile(folder / name, Path(place) / name)
        found = look(database, submission_id, Path(place), frozen=frozen)
    with database.write() as session:
        row = session.get(Verification, submission_id)
        if row is None:
            row = fresh(database, submission_id)
            session.add(row)
        keep(session, database, row, organiser, found)
    return found


def keep(session: Session, database: Database, row: Verification, by: str, found: VerificationResult) -> None:
    """Write a verdict where pages and leaderboards read it; bytes that leave no question are no longer needed."""
    hand_in = session.get_one(Submission, row.submission_id)
    row.state, row.counted, row.reasons = (
        found.verdict,
        found.counted,
        [each.replace("\x00", "")[:500] for each in found.reasons],
    )
    row.stories, row.changed = found.stories, database.now()
    hand_in.verified_parameters = found.counted if found.verdict == "verified" else None
    session.get_one(Edition, hand_in.edition_id).revision += 1
    if found.verdict == "verified" and found.stories.get("verdict") == "plausible":
        delete_chunks(session, hand_in.id)
    append_audit(
        session,
        database.now(),
        by,
        f"model {found.verdict}",
        f"hand-in {hand_in.id}",
        counted=found.counted,
        claimed=hand_in.counted_parameters,
        reasons=row.reasons,
        stories=found.stories.get("verdict"),
    )


def fail_verification(session: Session, database: Database, job: LeasedJob, error: str) -> None:
    """After the last attempt: unproven, with what was in the way."""
    row = session.get_one(Verification, job.submission_id)
    if row.upload == job.panel:
        keep(
            session,
            database,
            row,
            "worker",
            VerificationResult(verdict="unproven", counted=None, reasons=[error]),
        )
    finish_job(session, job, error[:500])
