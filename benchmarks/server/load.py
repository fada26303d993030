"""Load test of the server on SQLite and PostgreSQL: readers while judging runs, then a rush before a deadline.

Input: nothing, or --postgres URL of an empty database. Output: results/hackathon.json with the figures of each database.
With --folder the databases are reused: earlier submissions stay, and the daily limit is reset.

    python -m benchmarks.server.load [--postgres URL] [--folder FOLDER] [--quick]
"""

from __future__ import annotations

import argparse
import http.client
import json
import queue
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy import func, select, text

from benchmarks.lib.records import RESULTS, add_record_arguments, provenance, write_record
from benchmarks.server.sample_event import CLASSES, PANEL, PROMPTS, seed
from benchmarks.server.site import (
    VERSIONS_OF,
    database_version,
    free_port,
    post_submission,
    start_server,
    start_worker,
    wait_for,
)
from smalltale.rules import aoe_day
from smalltale.server.accounts.accounts import sign_in
from smalltale.server.database.models import Job, JudgementRow, Person, Score, Submission
from smalltale.server.database.session import Database

READS_PER_SECOND = 100
SIGNED_IN_EVERY = 4
"""Every N-th reader is signed in and so gets no cached page."""
RUSH_SECONDS = 60.0
JUDGING_TIMEOUT_SECONDS = 240.0


def request_at_rate(
    port: int,
    rate: float,
    seconds: float,
    send: Callable[[http.client.HTTPConnection, int], int],
    threads: int = 24,
) -> list[tuple[float, int]]:
    """Open loop: request i is due at i / rate, and its latency counts from then. Returns (latency, status) pairs."""
    due: queue.Queue[tuple[int, float]] = queue.Queue()
    start = time.monotonic() + 0.2
    for i in range(int(rate * seconds)):
        due.put((i, start + i / rate))
    latencies: list[tuple[float, int]] = []

    def run() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while True:
            try:
                number, moment = due.get_nowait()
            except queue.Empty:
                return
            time.sleep(max(0.0, moment - time.monotonic()))
            status = send(connection, number)
            latencies.append((time.monotonic() - moment, status))

    workers = [threading.Thread(target=run) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return latencies


def make_reader(cookies: Sequence[str]) -> Callable[[http.client.HTTPConnection, int], int]:
    """A request function that reads leaderboard pages of all classes; some readers are signed in."""

    def read_page(connection: http.client.HTTPConnection, number: int) -> int:
        name, page = ("", *CLASSES)[number % 4], 1 + number // 4 % 3
        headers = {"Accept-Encoding": "gzip"}
        if number // 12 % SIGNED_IN_EVERY == 0:
            headers["Cookie"] = f"smalltale={cookies[number % len(cookies)]}"
        connection.request("GET", f"/e/load/leaderboard?class={name}&page={page}", headers=headers)
        response = connection.getresponse()
        response.read()
        return response.status

    return read_page


class SteadySubmissions:
    """A team submits every second; a visitor polls the leaderboard until it counts the submission."""

    def __init__(self, port: int) -> None:
        self.port, self.stop = port, threading.Event()
        self.sent: dict[str, tuple[float, int]] = {}
        """By team: when its submission was accepted, and how many the leaderboard counted before."""
        self.waits: list[float] = []
        self.refused: list[int] = []

    def run(self) -> None:
        """Submit until `stop` is set, then wait until the leaderboard counts the last submission."""
        watcher = threading.Thread(target=self.watch)
        connection, number = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60), 0
        counts_before = self.count_submissions(connection)
        watcher.start()
        while not self.stop.wait(1.0):
            number += 1
            status = post_submission(connection, number)
            if status != 201:
                self.refused.append(status)
            else:
                name = f"Team {number}"
                self.sent[name] = (time.monotonic(), counts_before.get(name, 0))
        watcher.join()

    def watch(self) -> None:
        """Poll four times per second."""
        connection, deadline = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60), float("inf")
        while not self.stop.is_set() or (self.sent and time.monotonic() < deadline):
            if self.stop.is_set():
                deadline = min(deadline, time.monotonic() + 30)
            counts, now = self.count_submissions(connection), time.monotonic()
            for name in [name for name, (_, count) in self.sent.items() if counts.get(name, 0) > count]:
                self.waits.append(now - self.sent.pop(name)[0])
            time.sleep(0.25)

    def count_submissions(self, connection: http.client.HTTPConnection) -> dict[str, int]:
        """Number of submissions by team on the leaderboard of the large class."""
        connection.request("GET", "/api/v1/editions/load/leaderboard?class=large")
        return {
            standing["team"]: standing["hand_ins"]
            for standing in json.loads(connection.getresponse().read())["standings"]
        }


def measure(url: str, seconds: float, rush_teams: int) -> dict[str, object]:
    """Measure reads while judging runs, then the rush."""
    port, database = free_port(), Database(url, pool_size=1)
    reset_daily_limit(database)
    with database.read() as session:
        people = session.scalars(select(Person).order_by(Person.id).limit(10)).all()
    read_page = make_reader([sign_in(database, person) for person in people])
    server, worker = start_server(url, port), start_worker(url)
    try:
        wait_for(port)
        for number in range(48):
            read_page(http.client.HTTPConnection("127.0.0.1", port, timeout=60), number)
        steady = SteadySubmissions(port)
        submitting = threading.Thread(target=steady.run)
        submitting.start()
        latencies = request_at_rate(port, READS_PER_SECOND, seconds, read_page)
        steady.stop.set()
        submitting.join()
        reset_daily_limit(database)
        rush = measure_rush(port, database, rush_teams)
    finally:
        for process in (worker, server):
            process.send_signal(signal.SIGINT)
        for process in (worker, server):
            process.wait(timeout=30)
        database.close()
    return {
        "reads_per_second": READS_PER_SECOND,
        "signed_in_share": 1 / SIGNED_IN_EVERY,
        "requests": len(latencies),
        "errors": sum(status != 200 for _, status in latencies),
        **quantiles(latencies),
        "judged_meanwhile": len(steady.waits),
        "not_judged_meanwhile": len(steady.sent) + len(steady.refused),
        "slowest_to_appear_on_the_leaderboard_seconds": round(max(steady.waits), 2) if steady.waits else None,
        **rush,
    }


def quantiles(latencies: Sequence[tuple[float, int]], name: str = "") -> dict[str, float]:
    """p50, p95 and p99 in milliseconds."""
    seconds = sorted(latency for latency, _ in latencies)
    return {
        f"{name}p{part}_ms": round(1000 * seconds[len(seconds) * part // 100], 1) for part in (50, 95, 99)
    }


def reset_daily_limit(database: Database) -> None:
    """Let every team submit again today."""
    with database.write() as session:
        session.execute(
            text("UPDATE hand_in SET slot = 'run-' || id WHERE slot = :slot"),
            {"slot": f"{aoe_day(database.now())}#0"},
        )


def measure_rush(port: int, database: Database, teams: int) -> dict[str, object]:
    """Every team submits within the last minute, twice at nearly the same moment; then all are judged."""
    statuses: list[int] = []

    def submit_twice(connection: http.client.HTTPConnection, number: int) -> int:
        statuses.append(post_submission(connection, 1 + number // 2))
        return statuses[-1]

    with database.read() as session:
        last_id = session.scalar(select(func.max(Submission.id))) or 0
    seconds = RUSH_SECONDS * teams / 500
    latencies = request_at_rate(port, 2 * teams / seconds, seconds, submit_twice)
    began = time.monotonic()
    new = (Submission.id > last_id) & (Submission.slot == f"{aoe_day(database.now())}#0")
    while time.monotonic() - began < JUDGING_TIMEOUT_SECONDS:
        with database.read() as session:
            if not session.scalar(select(func.count()).where(Job.state.in_(["waiting", "running"]))):
                break
        time.sleep(0.5)
    with database.read() as session:
        submissions, teams_with_submission = session.execute(
            select(func.count(), func.count(Submission.team_id.distinct())).where(new)
        ).one()
        unexpected = session.scalar(select(func.count()).where(Submission.id > last_id, ~new))
        completely_judged = session.scalar(
            select(func.count(Score.submission_id))
            .join(Submission, Submission.id == Score.submission_id)
            .where(
                new,
                Score.side == "all",
                Score.panel == PANEL,
                Score.judged == Score.expected,
                Score.expected == 4 * len(PROMPTS),
            )
        )
        judgements = session.scalar(select(func.count()).where(JudgementRow.submission_id > last_id))
    return {
        "rush_teams": teams,
        "rush_seconds": seconds,
        "rush_accepted": statuses.count(201),
        "rush_refused_as_second": statuses.count(429),
        "rush_lost": statuses.count(201) - submissions,
        "rush_doubled": submissions - teams_with_submission + unexpected,
        **quantiles(latencies, "rush_"),
        "rush_judged_completely": completely_judged,
        "rush_judgements_missing_or_double": judgements - 4 * len(PROMPTS) * submissions,
        "rush_judged_seconds_after_it": round(time.monotonic() - began, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--postgres", metavar="URL", help="an empty PostgreSQL database")
    parser.add_argument("--no-sqlite", action="store_true", help="measure only PostgreSQL")
    parser.add_argument("--teams", type=int, default=500)
    parser.add_argument("--days", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--folder", type=Path, help="keep the SQLite file in this folder and reuse it")
    parser.add_argument("--fill-only", action="store_true", help="only fill the databases")
    add_record_arguments(parser)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.teams, arguments.days, arguments.seconds = 50, 10, 10
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="smalltale-load-"))
    folder.mkdir(parents=True, exist_ok=True)
    urls = {"sqlite": f"sqlite:///{folder / 'load.db'}", "postgresql": arguments.postgres}
    if arguments.no_sqlite:
        del urls["sqlite"]
    figures: dict[str, object] = {"benchmark": "hackathon"}
    for name, url in urls.items():
        if url:
            rows = fill(Database(url), arguments.teams, arguments.days)
            if not arguments.fill_only:
                figures[name] = {
                    **provenance(VERSIONS_OF, arguments.commit),
                    **rows,
                    **measure(url, arguments.seconds, arguments.teams),
                }
    if not arguments.folder:
        shutil.rmtree(folder)
    out = arguments.out or (None if arguments.quick or arguments.fill_only else RESULTS / "hackathon.json")
    # A database may have been measured in another run; each has its own commit and date.
    earlier = json.loads(out.read_text()) if out and out.exists() else {}
    write_record(out, {**earlier, **figures}, figures)


def fill(database: Database, teams: int, days: int) -> dict[str, object]:
    """Fill the database if it is empty. Returns the numbers of rows."""
    database.migrate()
    with database.read() as session:
        submissions = session.scalar(select(func.count()).select_from(Submission))
    if not submissions:
        seed(database, teams, days)
    with database.read() as session:
        rows: dict[str, object] = {
            "database": database_version(session),
            "teams": teams,
            "submissions": session.scalar(select(func.count()).select_from(Submission)),
            "judgements": session.scalar(select(func.count()).select_from(JudgementRow)),
        }
    database.close()
    return rows


if __name__ == "__main__":
    main()
