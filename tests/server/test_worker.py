"""Durable judging: leases, retries, hand-over, nothing judged twice."""

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
from smalltale.server.database.models import Edition, Submission, Job, JudgementRow, Score
from smalltale.server.errors import RequestProblem
from smalltale.server.judging.panel import JudgeOpinion, Story
from smalltale.server.judging.queue import (
    LEASE_SECONDS,
    LeaseLost,
    lease_job,
    finish_job,
    get_queue_position,
    renew_lease,
)
from smalltale.server.judging.scripted import ScriptedPanel
from smalltale.server.leaderboard.leaderboard import build_leaderboard
from smalltale.server.worker import run_worker

from .conftest import Hackathon


@dataclass
class Moody:
    """A panel that fails as told, and counts what it was asked."""

    inner: ScriptedPanel = field(default_factory=ScriptedPanel)
    down: int = 0
    """So many first batches find the judge unreachable."""
    mute: int = 0
    """So many first stories end in an error."""
    asked: list[tuple[int, str]] = field(default_factory=list)
    judges: tuple[str, ...] = ("scripted-a", "scripted-b")
    qualified: bool = True

    def judge(self, stories: Sequence[Story], judge: str) -> Iterable[JudgeOpinion]:
        if self.down > 0:
            self.down -= 1
            raise SmalltaleError("the judge does not answer")
        for opinion in self.inner.judge(stories, judge):
            self.asked.append((opinion.story, judge))
            if self.mute > 0:
                self.mute -= 1
                opinion = replace(opinion, state="error", overall=None, scores={})
            yield opinion


def run(hackathon: Hackathon, panel: Moody) -> int:
    return run_worker(hackathon.database, lambda _edition, _panel: panel, threading.Event(), until_idle=True)


def test_a_hand_in_is_judged_once_by_every_judge_and_stands(hackathon: Hackathon) -> None:
    row = hackathon.submit(hackathon.add_team("ada"))
    with hackathon.database.read() as session:
        assert get_queue_position(session, row.id) == 1
    assert hackathon.run_worker() == 1
    with hackathon.database.read() as session:
        assert session.scalar(select(func.count()).select_from(JudgementRow)) == 48
        assert session.get_one(Submission, row.id).state == "judged"
        assert {(each.side, each.judged, each.expected) for each in session.scalars(select(Score))} == {
            ("public", 24, 24),
            ("private", 24, 24),
            ("all", 48, 48),
        }
        board = build_leaderboard(
            session, hackathon.edition, kind="daily", side="public", weight_class="small"
        )
    assert [(each.team, each.standing.rank) for each in board.rows] == [("Team ada", 1)]


def test_a_judge_that_was_down_is_asked_again_later_and_nothing_is_lost(hackathon: Hackathon) -> None:
    row = hackathon.submit(hackathon.add_team("ada"))
    panel = Moody(down=1)
    run(hackathon, panel)
    with hackathon.database.read() as session:
        job = session.scalars(select(Job)).one()
        assert (job.state, job.error) == ("waiting", "the judge does not answer")
    hackathon.clock.advance(seconds=11)
    run(hackathon, panel)
    with hackathon.database.read() as session:
        assert session.get_one(Submission, row.id).state == "judged"
    assert len(panel.asked) == len(set(panel.asked)) == 48


def test_only_stories_that_ended_in_an_error_are_asked_again(hackathon: Hackathon) -> None:
    hackathon.submit(hackathon.add_team("ada"))
    panel = Moody(mute=3)
    run(hackathon, panel)
    hackathon.clock.advance(minutes=1)
    run(hackathon, panel)
    assert len(panel.asked) == 48 + 3


def test_after_the_last_attempt_a_half_judged_hand_in_is_marked_and_stands_below(
    hackathon: Hackathon,
) -> None:
    whole, half = hackathon.submit(hackathon.add_team("ada")), hackathon.submit(hackathon.add_team("bob"))
    hackathon.run_worker()
    with hackathon.database.write() as session:
        session.execute(update(Job).where(Job.submission_id == half.id).values(state="waiting", attempts=4))
        session.execute(JudgementRow.__table__.delete().where(JudgementRow.submission_id == half.id))
    run(hackathon, Moody(mute=40))
    with hackathon.database.read() as session:
        lines = build_leaderboard(
            session, hackathon.edition, kind="daily", side="all", weight_class=None
        ).rows
    assert [(each.hand_in_id, each.standing.rank) for each in lines] == [(whole.id, 1), (half.id, None)]
    assert lines[1].standing.note == "incomplete: 8 of 48 judgements"


def test_a_hand_in_that_no_judge_could_read_fails_and_gives_its_slot_back(hackathon: Hackathon) -> None:
    person = hackathon.add_team("ada")
    row = hackathon.submit(person)
    for _ in range(5):
        run(hackathon, Moody(down=1))
        hackathon.clock.advance(minutes=5)
    with hackathon.database.read() as session:
        assert (session.get_one(Submission, row.id).state, session.get_one(Submission, row.id).slot) == (
            "failed",
            None,
        )
    assert hackathon.submit(person).id != row.id


def test_a_dead_workers_job_is_taken_over_when_its_lease_ends_and_the_dead_can_write_nothing(
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


def test_two_workers_never_hold_the_same_job(hackathon: Hackathon) -> None:
    for n in range(6):
        hackathon.submit(hackathon.add_team(f"team{n}"))
    held: list[int] = []
    barrier = threading.Barrier(4)

    def take(name: str) -> None:
        barrier.wait()
        while job := lease_job(hackathon.database, name):
            held.append(job.id)

    threads = [threading.Thread(target=take, args=(f"w{n}",)) for n in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(held) == sorted(set(held))
    assert len(held) == 6


def second_panel(hackathon: Hackathon) -> None:
    """An edition knows another panel, as after its file named one."""
    means = {"judges": ["scripted-a", "scripted-b"], "rubric": "scripted", "version": ""}
    with hackathon.database.write() as session:
        edition = session.get_one(Edition, hackathon.edition.id)
        edition.panels = {**edition.panels, "scripted-2": means}


def test_judging_again_with_another_panel_keeps_the_old_scores_beside_it(hackathon: Hackathon) -> None:
    row = hackathon.submit(hackathon.add_team("ada"))
    hackathon.run_worker()
    organiser = hackathon.add_person("boss", admin=True)
    with pytest.raises(RequestProblem, match="choose one of: scripted-1"):
        rejudge(hackathon.database, organiser, row.id, "scripted-2")
    second_panel(hackathon)
    rejudge(hackathon.database, organiser, row.id, "scripted-2")
    rejudge(hackathon.database, organiser, row.id, "scripted-2")
    assert hackathon.run_worker() == 1
    with hackathon.database.read() as session:
        assert {each.panel for each in session.scalars(select(Score))} == {"scripted-1", "scripted-2"}
        assert session.scalar(select(func.count()).select_from(JudgementRow)) == 96


def test_a_judged_hand_in_stays_judged_where_another_panel_cannot_be_reached(hackathon: Hackathon) -> None:
    row = hackathon.submit(hackathon.add_team("ada"))
    hackathon.run_worker()
    second_panel(hackathon)
    rejudge(hackathon.database, hackathon.add_person("boss", admin=True), row.id, "scripted-2")
    for _ in range(5):
        run(hackathon, Moody(down=1))
        hackathon.clock.advance(minutes=5)
    with hackathon.database.read() as session:
        found = session.get_one(Submission, row.id)
        assert (found.state, found.slot) == ("judged", row.slot)
        assert session.scalars(select(Job.state).order_by(Job.id)).all() == ["done", "failed"]


SLOW_WORKER = """
import sys, threading, time
from smalltale.server import worker
from smalltale.server.database.session import Database
from smalltale.server.judging import queue
from smalltale.server.judging.scripted import ScriptedPanel
url, lease_seconds, pause_seconds, until_idle = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), bool(sys.argv[4])
queue.LEASE_SECONDS = worker.LEASE_SECONDS = lease_seconds
worker.BATCH = 2
class SlowPanel(ScriptedPanel):
    def judge(self, stories, judge):
        time.sleep(pause_seconds)
        return super().judge(stories, judge)
print("up", flush=True)
worker.run_worker(Database(url), lambda edition, panel: SlowPanel(), threading.Event(), until_idle=until_idle)
"""


def slow_worker(
    hackathon: Hackathon, *, lease: float, pause: float, until_idle: bool = False
) -> subprocess.Popen[bytes]:
    """A worker of its own process, which has begun."""
    url = hackathon.database.url.render_as_string(hide_password=False)
    given = [url, str(lease), str(pause), "yes" if until_idle else ""]
    process = subprocess.Popen([sys.executable, "-c", SLOW_WORKER, *given], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill -9."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def judgements(hackathon: Hackathon) -> int:
    with hackathon.database.read() as session:
        return session.scalar(select(func.count()).select_from(JudgementRow)) or 0


@pytest.mark.all
def test_kill_9_at_random_moments_loses_nothing_and_judges_nothing_twice_into_a_score(
    hackathon: Hackathon,
) -> None:
    rng = random.Random(3)
    rows = [hackathon.submit(hackathon.add_team(f"team{n}")) for n in range(12)]
    for _ in range(50):
        process = slow_worker(hackathon, lease=3, pause=0.02)
        time.sleep(rng.uniform(0.0, 0.35))
        kill(process)
    time.sleep(3.1)
    with slow_worker(hackathon, lease=3, pause=0.02, until_idle=True) as last:
        assert last.wait(timeout=300) == 0
    assert judgements(hackathon) == 48 * len(rows)
    with hackathon.database.read() as session:
        assert {each.state for each in session.scalars(select(Submission))} == {"judged"}
        assert {
            (each.judged, each.expected) for each in session.scalars(select(Score).where(Score.side == "all"))
        } == {(48, 48)}


@pytest.mark.all
def test_a_killed_workers_half_done_work_goes_to_a_live_one_within_sixty_seconds(
    hackathon: Hackathon,
) -> None:
    row, shipped = hackathon.submit(hackathon.add_team("ada")), LEASE_SECONDS
    dying = slow_worker(hackathon, lease=shipped, pause=0.3)
    while judgements(hackathon) < 8:
        time.sleep(0.05)
    living = slow_worker(hackathon, lease=shipped, pause=0.0)
    kill(dying)
    died, half, state = time.monotonic(), judgements(hackathon), ""
    assert 8 <= half < 48
    while state != "judged" and time.monotonic() - died < 60:
        time.sleep(0.2)
        with hackathon.database.read() as session:
            state = session.get_one(Submission, row.id).state
    kill(living)
    assert state == "judged"
    with hackathon.database.read() as session:
        assert session.scalars(select(Job.attempts)).one() == 2
        assert session.get_one(Score, (row.id, "scripted-1", "all")).judged == judgements(hackathon) == 48
