"""A worker: takes one hand-in at a time, has its stories judged or its model verified, writes what came of it.

In: a database and a panel. Out: Judgement and Score rows, Verification rows.
Beware: what was said is written batch by batch under the lease; a worker that lost it writes nothing more.
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
from typing import Any

from sqlalchemy import func, select
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
BATCH = 32
IDLE_SECONDS = 0.5
BEAT_SECONDS = 5.0


def new_name() -> str:
    """A worker's name: never the same twice, so a dead worker's lease cannot be taken for one's own."""
    return f"{socket.gethostname()[:40]}:{os.getpid()}:{secrets.token_hex(4)}"


def run_worker(
    database: Database,
    panel_of: Callable[[Edition, str], Panel],
    stop: threading.Event,
    *,
    name: str | None = None,
    until_idle: bool = False,
) -> int:
    """Judge until `stop` is set, or until nothing waits. Returns how many jobs were brought to an end."""
    name, done, beaten = name or new_name(), 0, -math.inf
    while not stop.is_set():
        try:
            job = lease_job(database, name)
            if job is not None or time.monotonic() - beaten > BEAT_SECONDS:
                record_heartbeat(database, name, f"hand-in {job.submission_id}" if job else None)
                beaten = time.monotonic()
            if job is not None:
                run_job(database, panel_of, job, name)
                done += 1
                continue
        except OperationalError as error:
            log.warning("the database does not answer (%s); trying again", first_line(error.orig or error))
        if until_idle:
            break
        stop.wait(IDLE_SECONDS)
    return done


def run_job(database: Database, panel_of: Callable[[Edition, str], Panel], job: LeasedJob, name: str) -> None:
    """One job, to its end or back into the queue."""
    log.info("%s hand-in %d, %s (attempt %d)", job.kind, job.submission_id, job.panel, job.attempts)
    try:
        try:
            with LeaseKeeper(database, job, name) as lost:
                if job.kind == "verify":
                    verify_upload(database, job, name, lost)
                else:
                    judge_hand_in(database, panel_of, job, name, lost)
        except SmalltaleError as error:
            log.warning("hand-in %d: %s", job.submission_id, error)
            with database.write() as session:
                renew_lease(session, database, job, name)
                if job.attempts < MAX_ATTEMPTS:
                    retry_later(session, database, job, str(error))
                elif job.kind == "verify":
                    fail_verification(session, database, job, str(error))
                else:
                    give_up(session, database, panel_of, job, str(error))
    except LeaseLost:
        log.warning("hand-in %d was taken over by another worker", job.submission_id)


class LeaseKeeper:
    """Renews a job's lease from a thread while its block runs; the event it gives is set when the lease is lost."""

    def __init__(self, database: Database, job: LeasedJob, name: str) -> None:
        self.database, self.job, self.name = database, job, name
        self.over, self.lost = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.keep, daemon=True)

    def keep(self) -> None:
        while not self.over.wait(LEASE_SECONDS / 3):
            try:
                with self.database.write() as session:
                    renew_lease(session, self.database, self.job, self.name)
                record_heartbeat(self.database, self.name, f"hand-in {self.job.submission_id}")
            except LeaseLost:
                self.lost.set()
                return
            except OperationalError:
                continue

    def __enter__(self) -> threading.Event:
        self.thread.start()
        return self.lost

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()


def judge_hand_in(
    database: Database,
    panel_of: Callable[[Edition, str], Panel],
    job: LeasedJob,
    name: str,
    lost: threading.Event,
) -> None:
    """Have every story judged that this panel has not judged yet, then settle."""
    with database.read() as session:
        hand_in = session.get_one(Submission, job.submission_id)
        panel = panel_of(session.get_one(Edition, hand_in.edition_id), job.panel)
        stories = stories_of(session, hand_in.id)
        answered = select(JudgementRow.completion_id, JudgementRow.judge).where(
            JudgementRow.submission_id == hand_in.id, JudgementRow.panel == job.panel
        )
        said = {(row[0], row[1]) for row in session.execute(answered)}
    unanswered = 0
    for judge in panel.judges:
        waiting = [each for each in stories if (each.id, judge) not in said]
        for start in range(0, len(waiting), BATCH):
            batch = waiting[start : start + BATCH]
            if lost.is_set():
                raise LeaseLost
            opinions = list(panel.judge(batch, judge))
            kept = [each for each in opinions if each.state != "error"]
            unanswered += len(batch) - len(kept)
            with database.write() as session:
                renew_lease(session, database, job, name)
                write_opinions(session, job, kept)
    if unanswered and job.attempts < MAX_ATTEMPTS:
        raise SmalltaleError(f"{unanswered} judgements ended in an error; they are tried again")
    with database.write() as session:
        renew_lease(session, database, job, name)
        score_submission(
            session,
            session.get_one(Submission, job.submission_id),
            job.panel,
            panel.judges,
            qualified=panel.qualified,
        )
        session.get_one(Submission, job.submission_id).state = "judged"
        finish_job(session, job)


def stories_of(session: Session, submission_id: int) -> list[Story]:
    """A hand-in's stories in a fixed order."""
    rows = session.execute(
        select(CompletionRow.id, Prompt.text, CompletionRow.sample, CompletionRow.text)
        .join(Prompt, Prompt.id == CompletionRow.prompt_id)
        .where(CompletionRow.submission_id == submission_id)
        .order_by(Prompt.position, CompletionRow.sample)
    )
    return [Story(id=row[0], prompt=row[1], sample=row[2], text=row[3]) for row in rows]


def write_opinions(session: Session, job: LeasedJob, opinions: Sequence[JudgeOpinion]) -> None:
    """Write what was said; what is already there stays."""
    if not opinions:
        return
    rows: list[dict[str, Any]] = [
        {
            "completion_id": each.story_id,
            "panel": job.panel,
            "judge": each.judge,
            "submission_id": job.submission_id,
            "state": each.state,
            "overall": each.overall,
            "calibrated": each.calibrated,
            "weight": each.weight,
            "scores": each.scores,
            "age": each.age,
            "words": each.words,
        }
        for each in opinions
    ]
    session.execute(insert_for(session, JudgementRow).on_conflict_do_nothing(), rows)


def give_up(
    session: Session,
    database: Database,
    panel_of: Callable[[Edition, str], Panel],
    job: LeasedJob,
    error: str,
) -> None:
    """After the last attempt: a half-judged hand-in is settled and marked; one that no panel judged fails and gives its slot back."""
    hand_in = session.get_one(Submission, job.submission_id)
    judged = session.scalar(
        select(func.count())
        .select_from(JudgementRow)
        .where(JudgementRow.submission_id == hand_in.id, JudgementRow.panel == job.panel)
    )
    if judged:
        panel = panel_of(session.get_one(Edition, hand_in.edition_id), job.panel)
        score_submission(session, hand_in, job.panel, panel.judges, qualified=panel.qualified)
        hand_in.state = "judged"
    elif hand_in.state != "judged":
        hand_in.state, hand_in.slot = "failed", None
    hand_in.reason = error[:500]
    finish_job(session, job, error[:500])
