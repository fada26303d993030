"""A worker process: leases one job at a time, has its stories judged or its model verified, and stores the results.

Input: a database, and a function that opens panels. Output: JudgementRows and Scores, or a Verification.
Note: each batch of judgements is written in a transaction that renews the lease, so a worker that lost its lease writes nothing.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from smalltale.errors import SmalltaleError, first_line
from smalltale.server.database.models import CompletionRow, Edition, JudgementRow, Prompt, Submission
from smalltale.server.database.session import Database, insert_for
from smalltale.server.judging.panel import JudgeOpinion, Panel, Story
from smalltale.server.judging.queue import (
    LEASE_SECONDS,
    MAX_ATTEMPTS,
    LeasedJob,
    LeaseLost,
    finish_job,
    lease_job,
    record_heartbeat,
    renew_lease,
    retry_later,
)
from smalltale.server.judging.scoring import score_submission
from smalltale.server.verification.verification import fail_verification, verify_upload

log = logging.getLogger(__name__)
BATCH_STORIES = 32
POLL_SECONDS = 0.5
HEARTBEAT_SECONDS = 5.0

PanelOpener = Callable[[Edition, str], Panel]


def new_worker_name() -> str:
    """A unique name, so that a restarted worker does not mistake the lease of its dead predecessor for its own."""
    return f"{socket.gethostname()[:40]}:{os.getpid()}:{secrets.token_hex(4)}"


def run_worker(
    database: Database,
    open_panel: PanelOpener,
    stop: threading.Event,
    *,
    name: str | None = None,
    until_idle: bool = False,
) -> int:
    """Run jobs until `stop` is set, or with `until_idle` until no job waits. Returns the number of jobs."""
    name, jobs, last_heartbeat = name or new_worker_name(), 0, -math.inf
    while not stop.is_set():
        try:
            job = lease_job(database, name)
            if job is not None or time.monotonic() - last_heartbeat > HEARTBEAT_SECONDS:
                record_heartbeat(database, name, f"submission {job.submission_id}" if job else None)
                last_heartbeat = time.monotonic()
            if job is not None:
                run_job(database, open_panel, job, name)
                jobs += 1
                continue
        except OperationalError as error:
            log.warning("the database does not answer (%s); trying again", first_line(error.orig or error))
        if until_idle:
            break
        stop.wait(POLL_SECONDS)
    return jobs


def run_job(database: Database, open_panel: PanelOpener, job: LeasedJob, worker: str) -> None:
    """Run one job. After an error it is retried later; after the last attempt it has failed."""
    log.info("%s submission %d, %s (attempt %d)", job.kind, job.submission_id, job.panel, job.attempts)
    try:
        try:
            with LeaseKeeper(database, job, worker) as lease_lost:
                if job.kind == "verify":
                    verify_upload(database, job, worker, lease_lost)
                else:
                    run_judging(database, open_panel, job, worker, lease_lost)
        except SmalltaleError as error:
            log.warning("submission %d: %s", job.submission_id, error)
            with database.write() as session:
                renew_lease(session, database, job, worker)
                if job.attempts < MAX_ATTEMPTS:
                    retry_later(session, database, job, str(error))
                elif job.kind == "verify":
                    fail_verification(session, database, job, str(error))
                else:
                    fail_judging(session, open_panel, job, str(error))
    except LeaseLost:
        log.warning("submission %d: another worker has taken over", job.submission_id)


class LeaseKeeper:
    """Context manager that renews a job's lease from a thread; yields an event that is set when the lease is lost."""

    def __init__(self, database: Database, job: LeasedJob, worker: str) -> None:
        self.database, self.job, self.worker = database, job, worker
        self.finished, self.lease_lost = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.keep_renewing, daemon=True)

    def keep_renewing(self) -> None:
        while not self.finished.wait(LEASE_SECONDS / 3):
            try:
                with self.database.write() as session:
                    renew_lease(session, self.database, self.job, self.worker)
                record_heartbeat(self.database, self.worker, f"submission {self.job.submission_id}")
            except LeaseLost:
                self.lease_lost.set()
                return
            except OperationalError:
                continue

    def __enter__(self) -> threading.Event:
        self.thread.start()
        return self.lease_lost

    def __exit__(self, *_: object) -> None:
        self.finished.set()
        self.thread.join()


def run_judging(
    database: Database, open_panel: PanelOpener, job: LeasedJob, worker: str, lease_lost: threading.Event
) -> None:
    """Get the panel's missing opinions, then score the submission. Raises SmalltaleError, LeaseLost."""
    with database.read() as session:
        submission = session.get_one(Submission, job.submission_id)
        panel = open_panel(session.get_one(Edition, submission.edition_id), job.panel)
        stories = load_stories(session, submission.id)
        rows = select(JudgementRow.completion_id, JudgementRow.judge).where(
            JudgementRow.submission_id == submission.id, JudgementRow.panel == job.panel
        )
        judged = {(completion_id, judge) for completion_id, judge in session.execute(rows)}
    missing = 0
    for judge in panel.judges:
        waiting = [story for story in stories if (story.id, judge) not in judged]
        for start in range(0, len(waiting), BATCH_STORIES):
            batch = waiting[start : start + BATCH_STORIES]
            if lease_lost.is_set():
                raise LeaseLost
            opinions = [opinion for opinion in panel.judge(batch, judge) if opinion.state != "error"]
            missing += len(batch) - len(opinions)
            with database.write() as session:
                renew_lease(session, database, job, worker)
                insert_judgements(session, job, opinions)
    if missing and job.attempts < MAX_ATTEMPTS:
        raise SmalltaleError(f"{missing} judgements ended in an error; they are retried")
    with database.write() as session:
        renew_lease(session, database, job, worker)
        submission = session.get_one(Submission, job.submission_id)
        score_submission(session, submission, job.panel, panel.judges, qualified=panel.qualified)
        submission.state = "judged"
        finish_job(session, job)


def load_stories(session: Session, submission_id: int) -> list[Story]:
    """A submission's stories in a fixed order."""
    rows = session.execute(
        select(CompletionRow.id, Prompt.text, CompletionRow.sample, CompletionRow.text)
        .join(Prompt, Prompt.id == CompletionRow.prompt_id)
        .where(CompletionRow.submission_id == submission_id)
        .order_by(Prompt.position, CompletionRow.sample)
    )
    return [Story(id=row[0], prompt=row[1], sample=row[2], text=row[3]) for row in rows]


def insert_judgements(session: Session, job: LeasedJob, opinions: Sequence[JudgeOpinion]) -> None:
    """Insert opinions as judgements; existing judgements stay unchanged."""
    keys = {"submission_id": job.submission_id, "panel": job.panel}
    if rows := [{**keys, **asdict(opinion)} for opinion in opinions]:
        session.execute(insert_for(session, JudgementRow).on_conflict_do_nothing(), rows)


def fail_judging(session: Session, open_panel: PanelOpener, job: LeasedJob, error: str) -> None:
    """After the last attempt: score the existing judgements as incomplete; without any, the submission fails and frees its slot."""
    submission = session.get_one(Submission, job.submission_id)
    judgements = select(JudgementRow.judge).where(
        JudgementRow.submission_id == submission.id, JudgementRow.panel == job.panel
    )
    if session.scalar(judgements.limit(1)) is not None:
        panel = open_panel(session.get_one(Edition, submission.edition_id), job.panel)
        score_submission(session, submission, job.panel, panel.judges, qualified=panel.qualified)
        submission.state = "judged"
    elif submission.state != "judged":
        submission.state, submission.slot = "failed", None
    submission.reason = error[:500]
    finish_job(session, job, error[:500])
