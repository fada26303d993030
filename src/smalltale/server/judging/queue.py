"""Durable work in the database: leases that a dead worker loses.

In: hand-ins to judge. Out: jobs that exactly one live worker holds.
Beware: DBOS was the first choice, but without its managed Conductor a worker that dies for good keeps its workflows
(https://docs.dbos.dev/production/workflow-recovery); a lease that runs out needs nobody to notice.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from smalltale.server.database.models import Job, Submission, Worker
from smalltale.server.database.session import Database

LEASE_SECONDS = 30
"""A worker renews at a third of this; its work is handed over at most this long after it dies."""
MAX_ATTEMPTS = 5
WORKER_FORGOTTEN = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class LeasedJob:
    """A job that this worker holds."""

    id: int
    kind: str
    submission_id: int
    panel: str
    attempts: int


class LeaseLost(Exception):
    """Another worker has taken the job; stop at once and write nothing."""


def queue_judging(session: Session, database: Database, hand_in: Submission, panel: str) -> None:
    """Queue a hand-in for a panel; a second time changes nothing."""
    key = f"judge:{hand_in.id}:{panel}"
    if session.scalar(select(Job.id).where(Job.key == key)) is None:
        session.add(
            Job(key=key, kind="judge", submission_id=hand_in.id, panel=panel, run_after=database.now())
        )
        session.flush()


def queue_verification(session: Session, database: Database, submission_id: int, upload: str) -> None:
    """Queue an upload to be verified; one that was looked at before is looked at again."""
    key = f"verify:{submission_id}:{upload}"
    job = session.scalar(select(Job).where(Job.key == key))
    if job is None:
        job = Job(key=key, kind="verify", submission_id=submission_id, panel=upload, run_after=database.now())
        session.add(job)
    elif job.state in {"done", "failed"}:
        job.state, job.attempts, job.error, job.run_after = "waiting", 0, None, database.now()
    session.flush()


def lease_job(database: Database, worker: str) -> LeasedJob | None:
    """Take the job that has waited longest, or one whose lease has run out. None where there is nothing to do.

    Judging goes first: it takes seconds and people wait for it, a model takes minutes.
    """
    now = database.now()
    free = or_(
        (Job.state == "waiting") & (Job.run_after <= now),
        (Job.state == "running") & (Job.lease_ends < now),
    )
    with database.read() as session:
        if session.scalar(select(Job.id).where(free).limit(1)) is None:
            return None
    with database.write() as session:
        job = session.scalar(
            select(Job)
            .where(free)
            .order_by(Job.kind != "judge", Job.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        if job is None:
            return None
        job.state, job.worker, job.attempts = "running", worker, job.attempts + 1
        job.lease_ends = now + timedelta(seconds=LEASE_SECONDS)
        if job.kind == "judge":
            session.execute(
                update(Submission)
                .where(Submission.id == job.submission_id, Submission.state == "queued")
                .values(state="judging")
            )
        return LeasedJob(
            id=job.id, kind=job.kind, submission_id=job.submission_id, panel=job.panel, attempts=job.attempts
        )


def renew_lease(session: Session, database: Database, job: LeasedJob, worker: str) -> None:
    """Hold on to a job, in the transaction that writes its results. Raises LeaseLost where it is another's."""
    held = session.scalar(
        update(Job)
        .where(Job.id == job.id, Job.worker == worker, Job.attempts == job.attempts, Job.state == "running")
        .values(lease_ends=database.now() + timedelta(seconds=LEASE_SECONDS))
        .returning(Job.id)
    )
    if held is None:
        raise LeaseLost


def finish_job(session: Session, job: LeasedJob, error: str | None = None) -> None:
    """Mark a job done, or failed for good."""
    session.execute(
        update(Job)
        .where(Job.id == job.id)
        .values(state="failed" if error else "done", error=error, lease_ends=None)
    )


def retry_later(session: Session, database: Database, job: LeasedJob, error: str) -> None:
    """Try a job again later: after 10 s, 20 s, 40 s, …"""
    wait = timedelta(seconds=10 * 2 ** (job.attempts - 1))
    session.execute(
        update(Job)
        .where(Job.id == job.id)
        .values(state="waiting", error=error[:500], lease_ends=None, run_after=database.now() + wait)
    )


def record_heartbeat(database: Database, worker: str, doing: str | None) -> None:
    """Say that a worker lives."""
    with database.write() as session:
        session.merge(Worker(name=worker, seen=database.now(), doing=doing))


def list_live_workers(session: Session, database: Database) -> list[Worker]:
    """Workers seen of late, the latest first."""
    return list(
        session.scalars(
            select(Worker).where(Worker.seen > database.now() - WORKER_FORGOTTEN).order_by(Worker.seen.desc())
        )
    )


def get_queue_position(session: Session, submission_id: int) -> int | None:
    """1 for the next to be judged, None where it does not wait."""
    job = session.scalar(
        select(Job)
        .where(Job.submission_id == submission_id, Job.state == "waiting", Job.kind == "judge")
        .order_by(Job.id.desc())
        .limit(1)
    )
    if job is None:
        return None
    return (
        session.scalar(
            select(func.count())
            .select_from(Job)
            .where(Job.state == "waiting", Job.kind == "judge", Job.id < job.id)
        )
        or 0
    ) + 1
