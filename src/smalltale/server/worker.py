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
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from smalltale.errors import SmalltaleError
from smalltale.server.database.models import Completion, Edition, HandIn, Judgement, Prompt
from smalltale.server.database.session import Store
from smalltale.server.judging.panel import Opinion, Panel, Story
from smalltale.server.judging.queue import (
    LEASE_SECONDS,
    MOST_ATTEMPTS,
    Held,
    LeaseLost,
    beat,
    claim,
    finish,
    put_back,
    renew,
)
from smalltale.server.judging.scoring import settle
from smalltale.server.verification.verification import give_up_verifying, verify_upload

log = logging.getLogger(__name__)
BATCH = 32
IDLE_SECONDS = 0.5
BEAT_SECONDS = 5.0


def new_name() -> str:
    """A worker's name: never the same twice, so a dead worker's lease cannot be taken for one's own."""
    return f"{socket.gethostname()[:40]}:{os.getpid()}:{secrets.token_hex(4)}"


def work(
    store: Store,
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
            job = claim(store, name)
            if job is not None or time.monotonic() - beaten > BEAT_SECONDS:
                beat(store, name, f"hand-in {job.hand_in_id}" if job else None)
                beaten = time.monotonic()
            if job is not None:
                run(store, panel_of, job, name)
                done += 1
                continue
        except OperationalError as error:
            log.warning(
                "the database does not answer (%s); trying again", str(error.orig).strip().splitlines()[0]
            )
        if until_idle:
            break
        stop.wait(IDLE_SECONDS)
    return done


def run(store: Store, panel_of: Callable[[Edition, str], Panel], job: Held, name: str) -> None:
    """One job, to its end or back into the queue."""
    log.info("%s hand-in %d, %s (attempt %d)", job.kind, job.hand_in_id, job.panel, job.attempts)
    try:
        try:
            with kept_alive(store, job, name) as lost:
                if job.kind == "verify":
                    verify_upload(store, job, name, lost)
                else:
                    judge_hand_in(store, panel_of, job, name, lost)
        except SmalltaleError as error:
            log.warning("hand-in %d: %s", job.hand_in_id, error)
            with store.write() as session:
                renew(session, store, job, name)
                if job.attempts < MOST_ATTEMPTS:
                    put_back(session, store, job, str(error))
                elif job.kind == "verify":
                    give_up_verifying(session, store, job, str(error))
                else:
                    give_up(session, store, panel_of, job, str(error))
    except LeaseLost:
        log.warning("hand-in %d was taken over by another worker", job.hand_in_id)


class kept_alive:
    """Renews a job's lease from a thread while its block runs; the event it gives is set when the lease is lost."""

    def __init__(self, store: Store, job: Held, name: str) -> None:
        self.store, self.job, self.name = store, job, name
        self.over, self.lost = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.keep, daemon=True)

    def keep(self) -> None:
        while not self.over.wait(LEASE_SECONDS / 3):
            try:
                with self.store.write() as session:
                    renew(session, self.store, self.job, self.name)
                beat(self.store, self.name, f"hand-in {self.job.hand_in_id}")
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
    store: Store, panel_of: Callable[[Edition, str], Panel], job: Held, name: str, lost: threading.Event
) -> None:
    """Have every story judged that this panel has not judged yet, then settle."""
    with store.read() as session:
        hand_in = session.get_one(HandIn, job.hand_in_id)
        panel = panel_of(session.get_one(Edition, hand_in.edition_id), job.panel)
        stories = stories_of(session, hand_in.id)
        answered = select(Judgement.completion_id, Judgement.judge).where(
            Judgement.hand_in_id == hand_in.id, Judgement.panel == job.panel
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
            with store.write() as session:
                renew(session, store, job, name)
                write_opinions(session, job, kept)
    if unanswered and job.attempts < MOST_ATTEMPTS:
        raise SmalltaleError(f"{unanswered} judgements ended in an error; they are tried again")
    with store.write() as session:
        renew(session, store, job, name)
        settle(
            session,
            session.get_one(HandIn, job.hand_in_id),
            job.panel,
            panel.judges,
            qualified=panel.qualified,
        )
        session.get_one(HandIn, job.hand_in_id).state = "judged"
        finish(session, job)


def stories_of(session: Session, hand_in_id: int) -> list[Story]:
    """A hand-in's stories in a fixed order."""
    rows = session.execute(
        select(Completion.id, Prompt.text, Completion.sample, Completion.text)
        .join(Prompt, Prompt.id == Completion.prompt_id)
        .where(Completion.hand_in_id == hand_in_id)
        .order_by(Prompt.position, Completion.sample)
    )
    return [Story(id=row[0], prompt=row[1], sample=row[2], text=row[3]) for row in rows]


def write_opinions(session: Session, job: Held, opinions: Sequence[Opinion]) -> None:
    """Write what was said; what is already there stays."""
    if not opinions:
        return
    rows: list[dict[str, Any]] = [
        {
            "completion_id": each.story,
            "panel": job.panel,
            "judge": each.judge,
            "hand_in_id": job.hand_in_id,
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
    dialect: Any = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    session.execute(dialect.insert(Judgement).on_conflict_do_nothing(), rows)


def give_up(
    session: Session, store: Store, panel_of: Callable[[Edition, str], Panel], job: Held, error: str
) -> None:
    """After the last attempt: a half-judged hand-in is settled and marked; one that no panel judged fails and gives its slot back."""
    hand_in = session.get_one(HandIn, job.hand_in_id)
    judged = session.scalar(
        select(func.count())
        .select_from(Judgement)
        .where(Judgement.hand_in_id == hand_in.id, Judgement.panel == job.panel)
    )
    if judged:
        panel = panel_of(session.get_one(Edition, hand_in.edition_id), job.panel)
        settle(session, hand_in, job.panel, panel.judges, qualified=panel.qualified)
        hand_in.state = "judged"
    elif hand_in.state != "judged":
        hand_in.state, hand_in.slot = "failed", None
    hand_in.reason = error[:500]
    finish(session, job, error[:500])
