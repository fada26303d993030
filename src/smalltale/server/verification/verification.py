"""Verifies that a submission's model is the declared one: request, upload, check by a worker, stored verdict.

Input: the model of a final submission, or one that an organiser requested. Output: a Verification row, and the verified
parameter count of the submission.
Note: chunks are written in many transactions; an upload counts only once the last transaction has queued its job.
"""

from __future__ import annotations

import hashlib
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
    iter_chunks,
    store_chunks,
    write_model_folder,
)
from smalltale.submission import Completion


def is_model_wanted(submission: Submission, verification: Verification | None) -> bool:
    """Whether the team may upload its model: for a final submission or on request, until it is verified."""
    if verification is None:
        return submission.kind == "final"
    return verification.state != "verified"


def request_model(database: Database, organiser: Person, submission_id: int) -> None:
    """Request a team's model, or queue the uploaded one for another verification. Raises RequestProblem."""
    require_organiser(organiser)
    with database.write() as session:
        if session.get(Submission, submission_id) is None:
            raise not_found("submission")
        verification = session.get(Verification, submission_id)
        if verification is None:
            session.add(new_verification(database, submission_id, asked_by=organiser.handle))
        elif verification.upload is not None and is_doubtful(verification):
            verification.state, verification.changed = "waiting", database.now()
            queue_verification(session, database, submission_id, verification.upload)
        else:
            return
        append_audit(session, database.now(), organiser.handle, "model asked for", f"hand-in {submission_id}")


def new_verification(database: Database, submission_id: int, asked_by: str | None = None) -> Verification:
    """A verification without an upload."""
    return Verification(
        submission_id=submission_id,
        state="asked",
        asked_by=asked_by,
        files={},
        changed=database.now(),
        reasons=[],
        stories={},
    )


def model_status(
    submission: Submission, verification: Verification | None, *, with_reasons: bool
) -> dict[str, Any]:
    """The API's JSON about a submission's model; the reasons are for the team and the organisers."""
    status = {
        "state": verification.state if verification else None,
        "wanted": is_model_wanted(submission, verification),
        "counted_parameters": verification.counted if verification else None,
        "stories": verification.stories.get("verdict") if verification else None,
    }
    if verification and with_reasons:
        status |= {"reasons": verification.reasons, "check": verification.stories}
    return status


def is_doubtful(verification: Verification) -> bool:
    """Whether a finished verification did not confirm the model and its stories, so that a repetition makes sense."""
    return verification.state in {"contradicted", "unproven"} or (
        verification.state == "verified" and verification.stories.get("verdict") != "plausible"
    )


def authorize_model_upload(database: Database, person: Person, submission_id: int) -> Submission:
    """The submission, if this person may upload its model now. Raises RequestProblem, before anything large is read."""
    with database.read() as session:
        submission = session.get(Submission, submission_id)
        if submission is None or not session.scalar(
            select(TeamMember.person_id).where(
                TeamMember.team_id == submission.team_id, TeamMember.person_id == person.id
            )
        ):
            raise not_found("submission")
        verification = session.get(Verification, submission_id)
    if verification is not None and verification.state == "verified":
        raise RequestProblem(409, "this submission's model is verified; nothing more is needed")
    if not is_model_wanted(submission, verification):
        title = "models are uploaded for final submissions, or when an organiser requests one"
        raise RequestProblem(409, title)
    return submission


def receive_model(
    database: Database, person: Person, submission_id: int, files: Sequence[UploadedFile]
) -> None:
    """Store a model and queue its verification. Raises RequestProblem with all its problems; then nothing is stored."""
    submission = authorize_model_upload(database, person, submission_id)
    with database.read() as session:
        rules = get_rules(session.get_one(Edition, submission.edition_id))
    problems = check_files(files, rules)
    if problems:
        raise RequestProblem(422, "this model was not accepted", problems)
    hashes = {file.name: hash_content(file) for file in files}
    if hashes[WEIGHTS_FILE] != submission.model_hash:
        message = f"its SHA-256 is {hashes[WEIGHTS_FILE]}, the declared one is {submission.model_hash}"
        raise RequestProblem(
            422,
            "this model was not accepted",
            [FieldProblem(WEIGHTS_FILE, message, "upload the model that wrote the stories")],
        )
    upload = secrets.token_hex(16)
    count = store_chunks(database, submission_id, upload, files)
    with database.write() as session:
        stored = select(func.count()).select_from(ModelChunk).where(ModelChunk.upload == upload)
        verification = session.get(Verification, submission_id)
        if session.scalar(stored) != count or (verification and verification.state == "verified"):
            title = "another model was uploaded for this submission meanwhile; see its page"
            raise RequestProblem(409, title)
        if verification is None:
            session.add(verification := new_verification(database, submission_id))
        verification.state, verification.upload, verification.changed = "waiting", upload, database.now()
        verification.files = {file.name: {"bytes": file.size, "sha256": hashes[file.name]} for file in files}
        verification.counted, verification.reasons, verification.stories = None, [], {}
        delete_chunks(session, submission_id, keep_upload=upload)
        queue_verification(session, database, submission_id, upload)
        subject, files_by_name = f"hand-in {submission_id}", verification.files
        append_audit(session, database.now(), person.handle, "model sent", subject, files=files_by_name)


def hash_content(file: UploadedFile) -> str:
    """Hex SHA-256 of an uploaded file."""
    digest = hashlib.sha256()
    for chunk in iter_chunks(file.content):
        digest.update(chunk)
    return digest.hexdigest()


def verify_upload(database: Database, job: LeasedJob, worker: str, lease_lost: threading.Event) -> None:
    """Run a verification job: write the model to a temporary folder, check it, store the verdict."""
    with tempfile.TemporaryDirectory(prefix="smalltale-model-") as folder:
        with database.read() as session:
            files = dict(session.get_one(Verification, job.submission_id).files)
        write_model_folder(database, job.panel, files, Path(folder))
        try:
            result = verify_submission(database, job.submission_id, Path(folder), stop=lease_lost)
        except SandboxStopped as error:
            raise LeaseLost from error
    with database.write() as session:
        renew_lease(session, database, job, worker)
        verification = session.get_one(Verification, job.submission_id)
        if verification.upload == job.panel:
            store_result(session, database, verification, "worker", result)
        finish_job(session, job)


def verify_submission(
    database: Database,
    submission_id: int,
    folder: Path,
    *,
    frozen: Sequence[str] = (),
    stop: threading.Event | None = None,
) -> VerificationResult:
    """Verify a folder's model against a submission's declaration and stories."""
    with database.read() as session:
        submission = session.get(Submission, submission_id)
        if submission is None:
            raise not_found("submission")
        rules = session.get_one(Edition, submission.edition_id).toml
        rows = session.execute(
            select(Prompt.text, CompletionRow.text)
            .join(Prompt, Prompt.id == CompletionRow.prompt_id)
            .where(CompletionRow.submission_id == submission_id)
            .order_by(Prompt.position, CompletionRow.sample)
        ).all()
    check_model_folder(folder)
    claim = {
        "counted_parameters": submission.counted_parameters,
        "model_hash": submission.model_hash,
        "weight_class": submission.weight_class,
    }
    result = verify_model(folder, claim, rules, frozen=frozen, stop=stop)
    if result.verdict == "contradicted":
        return result
    sampling = str(submission.declaration.get("sampling", ""))
    completions = [Completion(prompt, text) for prompt, text in rows]
    return replace(result, stories=check_stories(folder, completions, sampling, stop=stop))


def verify_folder(
    database: Database, organiser: str, submission_id: int, folder: Path, frozen: Sequence[str] = ()
) -> VerificationResult:
    """Verify a model that reached the organisers as a folder, and store the verdict. Raises SmalltaleError."""
    check_model_folder(folder)
    with tempfile.TemporaryDirectory(prefix="smalltale-model-") as copy:
        for name in MODEL_FILES:
            if (folder / name).is_file():
                with translate_os_errors(folder / name):
                    shutil.copyfile(folder / name, Path(copy) / name)
        result = verify_submission(database, submission_id, Path(copy), frozen=frozen)
    with database.write() as session:
        verification = session.get(Verification, submission_id)
        if verification is None:
            session.add(verification := new_verification(database, submission_id))
        store_result(session, database, verification, organiser, result)
    return result


def store_result(
    session: Session, database: Database, verification: Verification, actor: str, result: VerificationResult
) -> None:
    """Store a verdict for pages and leaderboards. The model is deleted if it is verified and its stories are plausible."""
    submission = session.get_one(Submission, verification.submission_id)
    verification.state, verification.counted = result.verdict, result.counted
    verification.reasons = [reason.replace("\x00", "")[:500] for reason in result.reasons]
    verification.stories, verification.changed = result.stories, database.now()
    submission.verified_parameters = result.counted if result.verdict == "verified" else None
    session.get_one(Edition, submission.edition_id).revision += 1
    if result.verdict == "verified" and result.stories.get("verdict") == "plausible":
        delete_chunks(session, submission.id)
    detail = {
        "counted": result.counted,
        "claimed": submission.counted_parameters,
        "reasons": verification.reasons,
        "stories": result.stories.get("verdict"),
    }
    action, subject = f"model {result.verdict}", f"hand-in {submission.id}"
    append_audit(session, database.now(), actor, action, subject, **detail)


def fail_verification(session: Session, database: Database, job: LeasedJob, error: str) -> None:
    """After the last attempt: the verdict is unproven, with the error as its reason."""
    verification = session.get_one(Verification, job.submission_id)
    if verification.upload == job.panel:
        result = VerificationResult(verdict="unproven", counted=None, reasons=[error])
        store_result(session, database, verification, "worker", result)
    finish_job(session, job, error[:500])
