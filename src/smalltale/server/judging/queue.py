"""A durable job queue in the database: a worker leases a job, and loses it if it stops renewing the lease.

Input: submissions to judge and models to verify. Output: jobs, each leased by at most one live worker.
No library is used: DBOS was the first choice, but without its managed Conductor the workflows of a worker that never restarts are
not recovered (https://docs.dbos.dev/production/workflow-recovery). A lease expires without anyone noticing the death.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from smalltale.server.database.models import Job, Submission, Worker
from smalltale.server.database.session import Database

LEASE_SECONDS = 30
"""A worker renews its lease at a third of this. After its death its job is free again within this time."""
MAX_ATTEMPTS = 5
FIRST_RETRY_SECONDS = 10
WORKER_LISTED_FOR = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class LeasedJob:
    """A job that a worker has leased, without its session."""

    id: int
    kind: str
    submission_id: int
    panel: str
    attempts: int


class LeaseLost(Exception):
    """Another worker has the job now; this worker must stop and write nothing."""


def queue_judging(session: Session, database: Database, submission: Submission, panel: str) -> None:
    """Queue a submission for a panel, unless it has been queued before."""
    key = f"judge:{submission.id}:{panel}"
    if session.scalar(select(Job.id).where(Job.key == key)) is None:
        session.add(
            Job(key=key, kind="judge", submission_id=submission.id, panel=panel, run_after=database.now())
        )
        session.flush()


def queue_verification(session: Session, database: Database, submission_id: int, upload: str) -> None:
    """Queue an uploaded model for verification. A finished or failed verification of the same upload runs again."""
    key = f"verify:{submission_id}:{upload}"
    job = session.scalar(select(Job).where(Job.key == key))
    if job is None:
        job = Job(key=key, kind="verify", submission_id=submission_id, panel=upload, run_after=database.now())
        session.add(job)
    elif job.state in {"done", "failed"}:
        job.state, job.attempts, job.error, job.run_after = "waiting", 0, None, database.now()
    session.flush()


def lease_job(database: Database, worker: str) -> LeasedJob | None:
    """Lease the oldest job that waits or whose lease has expired; None if there is none.

    Judging jobs go first: judging takes seconds and people wait for it, a verification takes minutes.
    """
    now = database.now()
    is_free = or_(
        (Job.state == "waiting") & (Job.run_after <= now), (Job.state == "running") & (Job.lease_ends < now)
    )
    with database.read() as session:
        if session.scalar(select(Job.id).where(is_free).limit(1)) is None:
            return None
    with database.write() as session:
        job = session.scalar(
            select(Job)
            .where(is_free)
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
    """Extend a lease, in the transaction that writes the job's results. Raises LeaseLost if another worker has it."""
    job_id = session.scalar(
        update(Job)
        .where(Job.id == job.id, Job.worker == worker, Job.attempts == job.attempts, Job.state == "running")
        .values(lease_ends=database.now() + timedelta(seconds=LEASE_SECONDS))
        .returning(Job.id)
    )
    if job_id is None:
        raise LeaseLost


def finish_job(session: Session, job: LeasedJob, error: str | None = None) -> None:
    """Mark a job as done, or as failed for good."""
    session.execute(
        update(Job)
        .where(Job.id == job.id)
        .values(state="failed" if error else "done", error=error, lease_ends=None)
    )


def retry_later(session: Session, database: Database, job: LeasedJob, error: str) -> None:
    """Release a job for another attempt: after 10 s, 20 s, 40 s, …"""
    delay = timedelta(seconds=FIRST_RETRY_SECONDS * 2 ** (job.attempts - 1))
    session.execute(
        update(Job)
        .where(Job.id == job.id)
        .values(state="waiting", error=error[:500], lease_ends=None, run_after=database.now() + delay)
    )


def record_heartbeat(database: Database, worker: str, activity: str | None) -> None:
    """Record that a worker is alive, and what it works on."""
    with database.write() as session:
        session.merge(Worker(name=worker, seen=database.now(), doing=activity))


def list_live_workers(session: Session, database: Database) -> list[Worker]:
    """Workers with a heartbeat in the last day, the latest first."""
    oldest = database.now() - WORKER_LISTED_FOR
    return list(session.scalars(select(Worker).where(Worker.seen > oldest).order_by(Worker.seen.desc())))


def get_queue_position(session: Session, submission_id: int) -> int | None:
    """A submission's position among the waiting judging jobs, from 1; None if it does not wait."""
    waits_for_judges = (Job.state == "waiting") & (Job.kind == "judge")
    job_id = session.scalar(
        select(func.max(Job.id)).where(waits_for_judges, Job.submission_id == submission_id)
    )
    if job_id is None:
        return None
    return session.scalar(select(func.count()).select_from(Job).where(waits_for_judges, Job.id <= job_id))
