"""SIGKILL of server and worker at 50 random moments during submissions and judging, on SQLite and PostgreSQL.

Input: nothing, or --postgres URL of an empty database. Output: results/hackathon_kills.json: what was killed, and every
inconsistency found afterwards, which should be none.
A sender without an answer sends the file again, as a contestant does; "already submitted today" then shows that the first file
was accepted.

    python -m benchmarks.server.kills [--postgres URL] [--kills 50] [--quick]
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

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from benchmarks.lib.records import RESULTS, add_record_arguments, provenance, write_record
from benchmarks.server.sample_event import PANEL, PROMPTS, seed
from benchmarks.server.site import (
    VERSIONS_OF,
    database_version,
    free_port,
    post_submission,
    start_server,
    start_worker,
    wait_for,
)
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
"""Pause of each sender between two teams."""
JUDGING_TIMEOUT_SECONDS = 180.0
STORIES = 4 * len(PROMPTS)


class SupervisedProcess:
    """A process that is restarted at once when it is killed, as by systemd."""

    def __init__(self, start: Callable[[], subprocess.Popen[bytes]]) -> None:
        self.start, self.process = start, start()

    def kill(self) -> int:
        """Kill and restart the process. Returns the killed process id."""
        killed = self.process
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        self.process = self.start()
        return killed.pid

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=60)


class Senders:
    """Threads that submit for one team after another, each until it has an answer."""

    def __init__(self, port: int) -> None:
        self.port, self.stop, self.lock = port, threading.Event(), threading.Lock()
        self.teams = iter(range(1, TEAMS + 1))
        self.answers: dict[int, list[int | None]] = {}
        """HTTP statuses by team; None if the connection broke while the file was being sent."""
        self.threads = [threading.Thread(target=self.run) for _ in range(SENDERS)]

    def run(self) -> None:
        while not self.stop.wait(PAUSE_SECONDS):
            with self.lock:
                team = next(self.teams, None)
                if team is None:
                    return
                statuses: list[int | None] = self.answers.setdefault(team, [])
            while not statuses or statuses[-1] not in {201, 429}:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
                try:
                    connection.connect()
                except OSError:
                    time.sleep(0.1)
                    continue
                try:
                    statuses.append(post_submission(connection, team))
                except (OSError, http.client.HTTPException):
                    statuses.append(None)
                finally:
                    connection.close()


class OrphanedJobs:
    """Jobs whose worker was killed, watched until another worker takes them."""

    def __init__(self, database: Database) -> None:
        self.database, self.waiting = database, dict[int, tuple[int, float]]()
        self.takeover_seconds: list[float] = []

    def add_jobs_of(self, pid: int) -> None:
        """Add the jobs of a killed worker."""
        with self.database.read() as session:
            running = select(Job).where(Job.worker.like(f"%:{pid}:%"), Job.state == "running")
            for job in session.scalars(running):
                self.waiting[job.id] = job.attempts, time.monotonic()

    def update(self) -> None:
        """Record which jobs were taken since."""
        if not self.waiting:
            return
        with self.database.read() as session:
            for job in session.scalars(select(Job).where(Job.id.in_(self.waiting))):
                attempts, since = self.waiting[job.id]
                if job.attempts > attempts:
                    self.takeover_seconds.append(time.monotonic() - since)
                    del self.waiting[job.id]


def run_kills(url: str, kills: int, max_seconds: float) -> dict[str, object]:
    """Kill at random moments, wait until all is judged, count inconsistencies."""
    database, port, rng = Database(url, pool_size=2), free_port(), random.Random(9)
    seed(database, TEAMS, 0)
    processes = {
        "server": SupervisedProcess(lambda: start_server(url, port)),
        "worker": SupervisedProcess(lambda: start_worker(url)),
    }
    wait_for(port)
    senders, orphans, kill_counts = Senders(port), OrphanedJobs(database), Counter[str]()
    for thread in senders.threads:
        thread.start()
    for _ in range(kills):
        kill_at = time.monotonic() + rng.uniform(0.0, max_seconds)
        while (remaining := kill_at - time.monotonic()) > 0:
            orphans.update()
            time.sleep(min(0.25, remaining))
        for name in rng.choice([["server"], ["worker"], ["server", "worker"]]):
            pid = processes[name].kill()
            kill_counts[name] += 1
            if name == "worker":
                orphans.add_jobs_of(pid)
    senders.stop.set()
    ended = time.monotonic()
    for thread in senders.threads:
        thread.join()
    while unfinished(database) and time.monotonic() - ended < JUDGING_TIMEOUT_SECONDS:
        orphans.update()
        time.sleep(0.25)
    orphans.update()
    judged_after = time.monotonic() - ended
    for process in processes.values():
        process.stop()
    answers = senders.answers.values()
    with database.read() as session:
        figures = {
            "database": database_version(session),
            "kills": kills,
            "server_killed": kill_counts["server"],
            "worker_killed": kill_counts["worker"],
            "submissions": len(senders.answers),
            "requests_cut_off": sum(statuses.count(None) for statuses in answers),
            "accepted_though_cut_off": sum(statuses[-1] == 429 for statuses in answers),
            "other_statuses": sorted(
                {status for statuses in answers for status in statuses} - {None, 201, 429}
            ),
            "jobs_orphaned": len(orphans.takeover_seconds) + len(orphans.waiting),
            "slowest_takeover_seconds": round(max(orphans.takeover_seconds, default=0.0), 1),
            "judged_seconds_after_the_last_kill": round(judged_after, 1),
            "inconsistencies": count_inconsistencies(session, senders.answers),
        }
    database.close()
    return figures


def unfinished(database: Database) -> bool:
    """Whether a job waits or runs."""
    with database.read() as session:
        return (
            session.scalar(select(Job.id).where(Job.state.in_(["waiting", "running"])).limit(1)) is not None
        )


def count_inconsistencies(session: Session, answers: dict[int, list[int | None]]) -> dict[str, int]:
    """Number of occurrences of each inconsistency that must never happen."""
    submissions = Counter(session.scalars(select(Submission.team_id)))
    rows = session.execute(select(Submission.id, Submission.state, Submission.slot)).all()

    def count_deviating(column: object, expected: int, *where: object) -> int:
        """Submissions without exactly `expected` rows."""
        query = select(column, func.count()).where(*where).group_by(column)  # type: ignore[call-overload]
        counts: dict[int, int] = dict(session.execute(query).all())
        return sum(counts.get(row.id, 0) != expected for row in rows)

    audited = Counter(session.scalars(select(Audit.subject).where(Audit.action == "handed in")))
    full = (Score.judged == STORIES) & (Score.expected == STORIES)
    inconsistencies = {
        "teams_with_an_answer_without_a_submission": sum(submissions[team] == 0 for team in answers),
        "teams_with_two_submissions": sum(count > 1 for count in submissions.values()),
        "teams_accepted_twice": sum(statuses.count(201) > 1 for statuses in answers.values()),
        "teams_refused_without_a_submission": sum(
            statuses[-1] == 429 and submissions[team] != 1 for team, statuses in answers.items()
        ),
        "submissions_that_no_team_sent": sum(team not in answers for team in submissions),
        "submissions_without_all_stories": count_deviating(CompletionRow.submission_id, STORIES),
        "submissions_without_their_file": count_deviating(SubmissionFile.submission_id, 1),
        "submissions_without_exactly_one_job": count_deviating(Job.submission_id, 1, Job.state == "done"),
        "submissions_not_exactly_once_in_the_audit_log": sum(
            audited[f"hand-in {row.id}"] != 1 for row in rows
        ),
        "audit_rows_that_break_the_chain": int(find_broken_audit_row(session) is not None),
        "submissions_not_judged": sum(row.state != "judged" or row.slot is None for row in rows),
        "submissions_not_judged_exactly_once_per_story": count_deviating(
            JudgementRow.submission_id, STORIES, JudgementRow.state == "ok", JudgementRow.panel == PANEL
        ),
        "submissions_without_exactly_one_complete_score": count_deviating(
            Score.submission_id, 1, Score.side == "all", full
        ),
        "scores_that_differ_from_their_judgements": count_wrong_means(session),
    }
    if session.get_bind().dialect.name == "sqlite":
        inconsistencies["integrity_check"] = int(session.scalar(text("PRAGMA integrity_check")) != "ok")
    return inconsistencies


def count_wrong_means(session: Session) -> int:
    """Number of scores that differ from the mean over prompts, computed again from the judgements."""
    marks: dict[int, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for submission, prompt, overall in session.execute(
        select(JudgementRow.submission_id, Prompt.id, JudgementRow.overall)
        .join(CompletionRow, CompletionRow.id == JudgementRow.completion_id)
        .join(Prompt, Prompt.id == CompletionRow.prompt_id)
    ):
        marks[submission][prompt].append(overall)
    return sum(
        not math.isclose(mean, statistics.fmean(map(statistics.fmean, marks[submission].values())))
        for submission, mean in session.execute(
            select(Score.submission_id, Score.mean).where(Score.side == "all")
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--postgres", metavar="URL", help="an empty PostgreSQL database")
    parser.add_argument("--no-sqlite", action="store_true", help="kill only on PostgreSQL")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--max-seconds", type=float, default=8.0, help="between two kills")
    add_record_arguments(parser)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.kills, arguments.max_seconds = 3, 8.0
    folder = Path(tempfile.mkdtemp(prefix="smalltale-kills-"))
    urls = {"sqlite": f"sqlite:///{folder / 'kills.db'}", "postgresql": arguments.postgres}
    if arguments.no_sqlite:
        del urls["sqlite"]
    figures: dict[str, object] = {"benchmark": "hackathon_kills"}
    for name, url in urls.items():
        if url:
            figures[name] = {
                **provenance(VERSIONS_OF, arguments.commit),
                **run_kills(url, arguments.kills, arguments.max_seconds),
            }
    shutil.rmtree(folder)
    out = arguments.out or (None if arguments.quick else RESULTS / "hackathon_kills.json")
    earlier = json.loads(out.read_text()) if out and out.exists() else {}
    write_record(out, {**earlier, **figures}, figures)


if __name__ == "__main__":
    main()
