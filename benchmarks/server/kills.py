"""Kill -9 of server and worker at 50 random moments under a stream of hand-ins and judging, on SQLite and on PostgreSQL.

In: nothing, or --postgres URL of an empty database. Out: results/hackathon_kills.json: what the kills struck, and everything
found amiss afterwards, which should be nothing.
Beware: who gets no answer sends the file again, as a contestant does; "used up" then says that the first one was kept.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import os
import random
import shutil
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

from benchmarks.server.sample_event import PANEL, PROMPTS, seed
from benchmarks.server.site import (
    RESULTS,
    database_version,
    free_port,
    measured_at,
    post_hand_in,
    start_server,
    start_worker,
    wait_for,
)
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from smalltale.files import write_json
from smalltale.server.database.models import (
    Audit,
    CompletionRow,
    Job,
    JudgementRow,
    Prompt,
    Score,
    Submission,
    SubmissionFile,
)
from smalltale.server.database.session import Database, find_broken_audit_row

TEAMS = 500
SENDERS = 4
PAUSE_SECONDS = 0.5
"""Each sender's, between two teams."""
JUDGED_WITHIN = 180.0
STORIES = 4 * len(PROMPTS)


class Supervised:
    """A process that is started again at once when it is killed, as systemd does."""

    def __init__(self, start: Callable[[], subprocess.Popen[bytes]]) -> None:
        self.start, self.process = start, start()

    def kill(self) -> int:
        """Returns the number of the dead."""
        dead = self.process
        os.kill(dead.pid, signal.SIGKILL)
        dead.wait()
        self.process = self.start()
        return dead.pid

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=60)


class Senders:
    """Teams that hand in one after another, each until it has an answer."""

    def __init__(self, port: int) -> None:
        self.port, self.over, self.lock = port, threading.Event(), threading.Lock()
        self.teams = iter(range(1, TEAMS + 1))
        self.answers: dict[int, list[int | None]] = {}
        """By team, what it was answered; None where the connection broke after the file was on its way."""
        self.threads = [threading.Thread(target=self.run) for _ in range(SENDERS)]

    def run(self) -> None:
        while not self.over.wait(PAUSE_SECONDS):
            with self.lock:
                team = next(self.teams, None)
                if team is None:
                    return
                heard: list[int | None] = self.answers.setdefault(team, [])
            while not heard or heard[-1] not in {201, 429}:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
                try:
                    connection.connect()
                except OSError:
                    time.sleep(0.1)
                    continue
                try:
                    heard.append(post_hand_in(connection, team))
                except (OSError, http.client.HTTPException):
                    heard.append(None)
                finally:
                    connection.close()


class Orphans:
    """Jobs whose worker was killed, watched until another takes them."""

    def __init__(self, database: Database) -> None:
        self.database, self.waiting = database, dict[int, tuple[int, float]]()
        self.handed_over: list[float] = []

    def of(self, pid: int) -> None:
        """Note what a dead worker held."""
        with self.database.read() as session:
            held = select(Job).where(Job.worker.like(f"%:{pid}:%"), Job.state == "running")
            for job in session.scalars(held):
                self.waiting[job.id] = job.attempts, time.monotonic()

    def look(self) -> None:
        """Note what was taken since."""
        if not self.waiting:
            return
        with self.database.read() as session:
            for job in session.scalars(select(Job).where(Job.id.in_(self.waiting))):
                attempts, since = self.waiting[job.id]
                if job.attempts > attempts:
                    self.handed_over.append(time.monotonic() - since)
                    del self.waiting[job.id]


def storm(url: str, kills: int, most_seconds: float) -> dict[str, object]:
    """Kill at random moments, let all be judged, look for what is amiss."""
    database, port, rng = Database(url, pool_size=2), free_port(), random.Random(9)
    seed(database, TEAMS, 0)
    parts = {
        "server": Supervised(lambda: start_server(url, port)),
        "worker": Supervised(lambda: start_worker(url)),
    }
    wait_for(port)
    senders, orphans, struck = Senders(port), Orphans(database), Counter[str]()
    for each in senders.threads:
        each.start()
    for _ in range(kills):
        moment = time.monotonic() + rng.uniform(0.0, most_seconds)
        while (left := moment - time.monotonic()) > 0:
            orphans.look()
            time.sleep(min(0.25, left))
        for name in rng.choice([["server"], ["worker"], ["server", "worker"]]):
            pid = parts[name].kill()
            struck[name] += 1
            if name == "worker":
                orphans.of(pid)
    senders.over.set()
    ended = time.monotonic()
    for each in senders.threads:
        each.join()
    while unfinished(database) and time.monotonic() - ended < JUDGED_WITHIN:
        orphans.look()
        time.sleep(0.25)
    orphans.look()
    judged_after = time.monotonic() - ended
    for each in parts.values():
        each.stop()
    answers = senders.answers.values()
    with database.read() as session:
        found = {
            "database": database_version(session),
            "kills": kills,
            "server_killed": struck["server"],
            "worker_killed": struck["worker"],
            "hand_ins": len(senders.answers),
            "requests_cut_off": sum(heard.count(None) for heard in answers),
            "kept_though_cut_off": sum(heard[-1] == 429 for heard in answers),
            "other_statuses": sorted({each for heard in answers for each in heard} - {None, 201, 429}),
            "jobs_orphaned": len(orphans.handed_over) + len(orphans.waiting),
            "slowest_hand_over_seconds": round(max(orphans.handed_over, default=0.0), 1),
            "judged_seconds_after_the_last_kill": round(judged_after, 1),
            "amiss": amiss(session, senders.answers),
        }
    database.close()
    return found


def unfinished(database: Database) -> bool:
    """Whether a job waits or runs."""
    with database.read() as session:
        return (
            session.scalar(select(Job.id).where(Job.state.in_(["waiting", "running"])).limit(1)) is not None
        )


def amiss(session: Session, answers: dict[int, list[int | None]]) -> dict[str, int]:
    """By what may never happen, how often it did."""
    kept = Counter(session.scalars(select(Submission.team_id)))
    rows = session.execute(select(Submission.id, Submission.state, Submission.slot)).all()

    def not_so_many(column: object, wanted: int, *where: object) -> int:
        """Hand-ins that have not exactly so many rows there."""
        query = select(column, func.count()).where(*where).group_by(column)  # type: ignore[call-overload]
        counts: dict[int, int] = dict(session.execute(query).all())
        return sum(counts.get(row.id, 0) != wanted for row in rows)

    handed_in = Counter(session.scalars(select(Audit.subject).where(Audit.action == "handed in")))
    full = (Score.judged == STORIES) & (Score.expected == STORIES)
    found = {
        "teams_told_it_is_kept_without_a_hand_in": sum(kept[team] == 0 for team in answers),
        "teams_with_two_hand_ins": sum(count > 1 for count in kept.values()),
        "teams_accepted_twice": sum(heard.count(201) > 1 for heard in answers.values()),
        "teams_whose_place_was_eaten": sum(
            heard[-1] == 429 and kept[team] != 1 for team, heard in answers.items()
        ),
        "hand_ins_nobody_sent": sum(team not in answers for team in kept),
        "hand_ins_without_all_stories": not_so_many(CompletionRow.submission_id, STORIES),
        "hand_ins_without_their_file": not_so_many(SubmissionFile.submission_id, 1),
        "hand_ins_without_their_one_job": not_so_many(Job.submission_id, 1, Job.state == "done"),
        "hand_ins_not_once_in_the_audit_log": sum(handed_in[f"hand-in {row.id}"] != 1 for row in rows),
        "audit_rows_that_break_the_chain": int(find_broken_audit_row(session) is not None),
        "hand_ins_not_judged": sum(row.state != "judged" or row.slot is None for row in rows),
        "hand_ins_not_judged_once_a_story": not_so_many(
            JudgementRow.submission_id, STORIES, JudgementRow.state == "ok", JudgementRow.panel == PANEL
        ),
        "hand_ins_without_one_whole_score": not_so_many(Score.submission_id, 1, Score.side == "all", full),
        "scores_that_their_judgements_do_not_make": wrong_means(session),
    }
    if session.get_bind().dialect.name == "sqlite":
        found["integrity_check"] = int(session.scalar(text("PRAGMA integrity_check")) != "ok")
    return found


def wrong_means(session: Session) -> int:
    """Scores that differ from the mean over prompts of what was said, counted anew."""
    said: dict[int, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for hand_in, prompt, overall in session.execute(
        select(JudgementRow.submission_id, Prompt.id, JudgementRow.overall)
        .join(CompletionRow, CompletionRow.id == JudgementRow.completion_id)
        .join(Prompt, Prompt.id == CompletionRow.prompt_id)
    ):
        said[hand_in][prompt].append(overall)
    return sum(
        not math.isclose(mean, statistics.fmean(map(statistics.fmean, said[hand_in].values())))
        for hand_in, mean in session.execute(
            select(Score.submission_id, Score.mean).where(Score.side == "all")
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--postgres", metavar="URL", help="an empty PostgreSQL database")
    parser.add_argument("--no-sqlite", action="store_true", help="kill on PostgreSQL alone")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--most-seconds", type=float, default=8.0, help="between two kills")
    parser.add_argument("--quick", action="store_true", help="a few kills, under a minute")
    parser.add_argument(
        "--out", type=Path, help="the record; results/hackathon_kills.json, with --quick nowhere"
    )
    given = parser.parse_args()
    if given.quick:
        given.kills, given.most_seconds = 3, 8.0
    folder = Path(tempfile.mkdtemp(prefix="smalltale-kills-"))
    urls = {"sqlite": f"sqlite:///{folder / 'kills.db'}", "postgresql": given.postgres}
    if given.no_sqlite:
        del urls["sqlite"]
    figures: dict[str, object] = {"benchmark": "hackathon_kills"}
    for name, url in urls.items():
        if url:
            figures[name] = {**measured_at(), **storm(url, given.kills, given.most_seconds)}
    shutil.rmtree(folder)
    out = given.out or (None if given.quick else RESULTS / "hackathon_kills.json")
    if out:
        write_json(out, {**(json.loads(out.read_text()) if out.exists() else {}), **figures})
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
