"""Durable judging: leases, retries, takeover from a dead worker, nothing judged twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import pytest
from sqlalchemy import func, select, update

from smalltale.errors import SmalltaleError
from smalltale.server.admin import rejudge
from smalltale.server.database.models import Edition, Job, JudgementRow, Score, Submission
from smalltale.server.errors import RequestProblem
from smalltale.server.judging.panel import JudgeOpinion, Story
from smalltale.server.judging.queue import (
    LEASE_SECONDS,
    LeaseLost,
    finish_job,
    get_queue_position,
    lease_job,
    renew_lease,
)
from smalltale.server.judging.scripted import ScriptedPanel
from smalltale.server.leaderboard.leaderboard import build_leaderboards
from smalltale.server.worker import run_worker

from .conftest import Hackathon


@dataclass
class FailingPanel:
    """A panel that fails as configured, and records the stories that it judged."""

    inner: ScriptedPanel = field(default_factory=ScriptedPanel)
    failing_batches: int = 0
    """For the first N batches the judge is unreachable."""
    failing_stories: int = 0
    """The first N opinions are errors."""
    judged: list[tuple[int, str]] = field(default_factory=list)
    judges: tuple[str, ...] = ("scripted-a", "scripted-b")
    qualified: bool = True

    def judge(self, stories: Sequence[Story], judge: str) -> Iterable[JudgeOpinion]:
        if self.failing_batches > 0:
            self.failing_batches -= 1
            raise SmalltaleError("the judge does not answer")
        for opinion in self.inner.judge(stories, judge):
            self.judged.append((opinion.completion_id, judge))
            if self.failing_stories > 0:
                self.failing_stories -= 1
                opinion = replace(opinion, state="error", overall=None, scores={})
            yield opinion


def run_with(hackathon: Hackathon, panel: FailingPanel) -> int:
    return run_worker(hackathon.database, lambda _edition, _panel: panel, threading.Event(), until_idle=True)


def test_a_submission_is_judged_once_by_every_judge_and_ranked(hackathon: Hackathon) -> None:
    submission = hackathon.submit(hackathon.add_team("ada"))
    with hackathon.database.read() as session:
        assert get_queue_position(session, submission.id) == 1
    assert hackathon.run_worker() == 1
    with hackathon.database.read() as session:
        assert session.scalar(select(func.count()).select_from(JudgementRow)) == 48
        assert session.get_one(Submission, submission.id).state == "judged"
        assert {(score.side, score.judged, score.expected) for score in session.scalars(select(Score))} == {
            ("public", 24, 24),
            ("private", 24, 24),
            ("all", 48, 48),
        }
        board = build_leaderboards(session, hackathon.edition, kind="daily", side="public")["small"]
    assert [(row.standing.entry.name, row.standing.rank) for row in board.rows] == [("Team ada", 1)]


def test_an_unreachable_judge_is_asked_again_later_and_nothing_is_lost(hackathon: Hackathon) -> None:
    submission = hackathon.submit(hackathon.add_team("ada"))
    panel = FailingPanel(failing_batches=1)
    run_with(hackathon, panel)
    with hackathon.database.read() as session:
        job = session.scalars(select(Job)).one()
        assert (job.state, job.error) == ("waiting", "the judge does not answer")
    hackathon.clock.advance(seconds=11)
    run_with(hackathon, panel)
    with hackathon.database.read() as session:
        assert session.get_one(Submission, submission.id).state == "judged"
    assert len(panel.judged) == len(set(panel.judged)) == 48


def test_only_stories_that_ended_in_an_error_are_judged_again(hackathon: Hackathon) -> None:
    hackathon.submit(hackathon.add_team("ada"))
    panel = FailingPanel(failing_stories=3)
    run_with(hackathon, panel)
    hackathon.clock.advance(minutes=1)
    run_with(hackathon, panel)
    assert len(panel.judged) == 48 + 3


def test_after_the_last_attempt_a_partly_judged_submission_is_marked_and_not_ranked(
    hackathon: Hackathon,
) -> None:
    complete, partial = (
        hackathon.submit(hackathon.add_team("ada")),
        hackathon.submit(hackathon.add_team("bob")),
    )
    hackathon.run_worker()
    with hackathon.database.write() as session:
        session.execute(
            update(Job).where(Job.submission_id == partial.id).values(state="waiting", attempts=4)
        )
        session.execute(JudgementRow.__table__.delete().where(JudgementRow.submission_id == partial.id))
    run_with(hackathon, FailingPanel(failing_stories=40))
    with hackathon.database.read() as session:
        entries = build_leaderboards(session, hackathon.edition, kind="daily", side="all")[None].rows
    assert [(entry.submission_id, entry.standing.rank) for entry in entries] == [
        (complete.id, 1),
        (partial.id, None),
    ]
    assert entries[1].standing.note == "incomplete: 8 of 48 judgements"


def test_a_submission_without_any_judgement_fails_and_frees_its_slot(hackathon: Hackathon) -> None:
    person = hackathon.add_team("ada")
    submission = hackathon.submit(person)
    for _ in range(5):
        run_with(hackathon, FailingPanel(failing_batches=1))
        hackathon.clock.advance(minutes=5)
    with hackathon.database.read() as session:
        stored = session.get_one(Submission, submission.id)
        assert (stored.state, stored.slot) == ("failed", None)
    assert hackathon.submit(person).id != submission.id


def test_a_dead_workers_job_is_taken_over_after_its_lease_and_the_dead_worker_can_write_nothing(
    hackathon: Hackathon,
) -> None:
    hackathon.submit(hackathon.add_team("ada"))
    dead = lease_job(hackathon.database, "dead")
    assert dead is not None
    assert lease_job(hackathon.database, "live") is None
    hackathon.clock.advance(seconds=LEASE_SECONDS + 1)
    live = lease_job(hackathon.database, "live")
    assert live is not None
    assert live.id == dead.id
    with hackathon.database.write() as session, pytest.raises(LeaseLost):
        renew_lease(session, hackathon.database, dead, "dead")
    with hackathon.database.write() as session:
        renew_lease(session, hackathon.database, live, "live")
        finish_job(session, live)
    assert lease_job(hackathon.database, "third") is None


def test_two_workers_never_lease_the_same_job(hackathon: Hackathon) -> None:
    for n in range(6):
        hackathon.submit(hackathon.add_team(f"team{n}"))
    leased_ids: list[int] = []
    barrier = threading.Barrier(4)

    def lease_all(name: str) -> None:
        barrier.wait()
        while job := lease_job(hackathon.database, name):
            leased_ids.append(job.id)

    threads = [threading.Thread(target=lease_all, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(leased_ids) == sorted(set(leased_ids))
    assert len(leased_ids) == 6


def add_second_panel(hackathon: Hackathon) -> None:
    """Add another panel to the edition, as an import of its file does."""
    definition = {"judges": ["scripted-a", "scripted-b"], "rubric": "scripted", "version": ""}
    with hackathon.database.write() as session:
        edition = session.get_one(Edition, hackathon.edition.id)
        edition.panels = {**edition.panels, "scripted-2": definition}


def test_judging_with_another_panel_keeps_the_old_scores(hackathon: Hackathon) -> None:
    submission = hackathon.submit(hackathon.add_team("ada"))
    hackathon.run_worker()
    organiser = hackathon.add_person("boss", admin=True)
    with pytest.raises(RequestProblem, match="choose one of: scripted-1"):
        rejudge(hackathon.database, organiser, submission.id, "scripted-2")
    add_second_panel(hackathon)
    rejudge(hackathon.database, organiser, submission.id, "scripted-2")
    rejudge(hackathon.database, organiser, submission.id, "scripted-2")
    assert hackathon.run_worker() == 1
    with hackathon.database.read() as session:
        assert {score.panel for score in session.scalars(select(Score))} == {"scripted-1", "scripted-2"}
        assert session.scalar(select(func.count()).select_from(JudgementRow)) == 96


def test_a_judged_submission_stays_judged_if_another_panel_cannot_be_reached(hackathon: Hackathon) -> None:
    submission = hackathon.submit(hackathon.add_team("ada"))
    hackathon.run_worker()
    add_second_panel(hackathon)
    rejudge(hackathon.database, hackathon.add_person("boss", admin=True), submission.id, "scripted-2")
    for _ in range(5):
        run_with(hackathon, FailingPanel(failing_batches=1))
        hackathon.clock.advance(minutes=5)
    with hackathon.database.read() as session:
        stored = session.get_one(Submission, submission.id)
        assert (stored.state, stored.slot) == ("judged", submission.slot)
        assert session.scalars(select(Job.state).order_by(Job.id)).all() == ["done", "failed"]


SLOW_WORKER = """
import sys, threading, time
from smalltale.server import worker
from smalltale.server.database.session import Database
from smalltale.server.judging import queue
from smalltale.server.judging.scripted import ScriptedPanel
url, lease_seconds, pause_seconds, until_idle = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), bool(sys.argv[4])
queue.LEASE_SECONDS = worker.LEASE_SECONDS = lease_seconds
worker.BATCH_STORIES = 2
class SlowPanel(ScriptedPanel):
    def judge(self, stories, judge):
        time.sleep(pause_seconds)
        return super().judge(stories, judge)
print("up", flush=True)
worker.run_worker(Database(url), lambda edition, panel: SlowPanel(), threading.Event(), until_idle=until_idle)
"""


def start_slow_worker(
    hackathon: Hackathon, *, lease_seconds: float, pause_seconds: float, until_idle: bool = False
) -> subprocess.Popen[bytes]:
    """Start a worker in a process of its own and wait until it is ready."""
    url = hackathon.database.url.render_as_string(hide_password=False)
    arguments = [url, str(lease_seconds), str(pause_seconds), "yes" if until_idle else ""]
    process = subprocess.Popen([sys.executable, "-c", SLOW_WORKER, *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill -9."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def count_judgements(hackathon: Hackathon) -> int:
    with hackathon.database.read() as session:
        return session.scalar(select(func.count()).select_from(JudgementRow)) or 0


@pytest.mark.all
def test_kill_9_at_random_moments_loses_no_judgement_and_counts_none_twice(hackathon: Hackathon) -> None:
    rng = random.Random(3)
    rows = [hackathon.submit(hackathon.add_team(f"team{n}")) for n in range(12)]
    for _ in range(50):
        process = start_slow_worker(hackathon, lease_seconds=3, pause_seconds=0.02)
        time.sleep(rng.uniform(0.0, 0.35))
        kill(process)
    time.sleep(3.1)
    with start_slow_worker(hackathon, lease_seconds=3, pause_seconds=0.02, until_idle=True) as last:
        assert last.wait(timeout=300) == 0
    assert count_judgements(hackathon) == 48 * len(rows)
    with hackathon.database.read() as session:
        assert {submission.state for submission in session.scalars(select(Submission))} == {"judged"}
        assert {
            (score.judged, score.expected)
            for score in session.scalars(select(Score).where(Score.side == "all"))
        } == {(48, 48)}


@pytest.mark.all
def test_a_killed_workers_unfinished_job_is_finished_by_a_live_worker_within_sixty_seconds(
    hackathon: Hackathon,
) -> None:
    submission = hackathon.submit(hackathon.add_team("ada"))
    dying = start_slow_worker(hackathon, lease_seconds=LEASE_SECONDS, pause_seconds=0.3)
    while count_judgements(hackathon) < 8:
        time.sleep(0.05)
    living = start_slow_worker(hackathon, lease_seconds=LEASE_SECONDS, pause_seconds=0.0)
    kill(dying)
    killed_at, state = time.monotonic(), ""
    assert 8 <= count_judgements(hackathon) < 48
    while state != "judged" and time.monotonic() - killed_at < 60:
        time.sleep(0.2)
        with hackathon.database.read() as session:
            state = session.get_one(Submission, submission.id).state
    kill(living)
    assert state == "judged"
    with hackathon.database.read() as session:
        assert session.scalars(select(Job.attempts)).one() == 2
        assert (
            session.get_one(Score, (submission.id, "scripted-1", "all")).judged
            == count_judgements(hackathon)
            == 48
        )
