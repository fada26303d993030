"""The hackathon's server under load, on SQLite and on PostgreSQL: readers beside judging, then a deadline rush.

In: nothing, or --postgres URL of an empty database. Out: results/hackathon.json with the figures of each database.
Beware: with --folder the databases are used again; what an earlier run handed in stays, its places of the day are freed.
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

from benchmarks.server.sample_event import CLASSES, PANEL, PROMPTS, seed
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

from smalltale.files import write_json
from smalltale.rules import aoe_day
from smalltale.server.accounts.accounts import sign_in
from smalltale.server.database.models import Job, JudgementRow, Person, Score, Submission
from smalltale.server.database.session import Database

READS_PER_SECOND = 100
SIGNED_IN_OF = 4
"""One reader in so many is signed in, and gets no page made for all."""
RUSH_SECONDS = 60.0
JUDGED_WITHIN = 240.0


def at_rate(
    port: int,
    rate: float,
    seconds: float,
    ask: Callable[[http.client.HTTPConnection, int], int],
    threads: int = 24,
) -> list[tuple[float, int]]:
    """Open loop: call number i is due at i / rate, and its latency counts from when it was due."""
    due: queue.Queue[tuple[int, float]] = queue.Queue()
    begin = time.monotonic() + 0.2
    for i in range(int(rate * seconds)):
        due.put((i, begin + i / rate))
    took: list[tuple[float, int]] = []

    def run() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while True:
            try:
                number, moment = due.get_nowait()
            except queue.Empty:
                return
            time.sleep(max(0.0, moment - time.monotonic()))
            status = ask(connection, number)
            took.append((time.monotonic() - moment, status))

    workers = [threading.Thread(target=run) for _ in range(threads)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    return took


def reader(cookies: Sequence[str]) -> Callable[[http.client.HTTPConnection, int], int]:
    """Asks for leaderboard pages, over the classes and their pages; some readers are signed in."""

    def ask(connection: http.client.HTTPConnection, number: int) -> int:
        name, page = ("", *CLASSES)[number % 4], 1 + number // 4 % 3
        headers = {"Accept-Encoding": "gzip"}
        if number // 12 % SIGNED_IN_OF == 0:
            headers["Cookie"] = f"smalltale={cookies[number % len(cookies)]}"
        connection.request("GET", f"/e/load/leaderboard?class={name}&page={page}", headers=headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status

    return ask


class Dripping:
    """A team hands in every second; a visitor watches until the leaderboard counts it."""

    def __init__(self, port: int) -> None:
        self.port, self.over = port, threading.Event()
        self.sent: dict[str, tuple[float, int]] = {}
        """By team, when its hand-in was taken, and how many the leaderboard had counted before."""
        self.waits: list[float] = []
        self.refused: list[int] = []

    def run(self) -> None:
        """Until `over`, and then until the last one stands."""
        watcher = threading.Thread(target=self.watch)
        connection, number = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60), 0
        before = self.counted(connection)
        watcher.start()
        while not self.over.wait(1.0):
            number += 1
            status = post_hand_in(connection, number)
            if status != 201:
                self.refused.append(status)
            else:
                name = f"Team {number}"
                self.sent[name] = (time.monotonic(), before.get(name, 0))
        watcher.join()

    def watch(self) -> None:
        """Four times a second."""
        connection, last = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60), float("inf")
        while not self.over.is_set() or (self.sent and time.monotonic() < last):
            if self.over.is_set():
                last = min(last, time.monotonic() + 30)
            found, now = self.counted(connection), time.monotonic()
            for name in [name for name, (_, count) in self.sent.items() if found.get(name, 0) > count]:
                self.waits.append(now - self.sent.pop(name)[0])
            time.sleep(0.25)

    def counted(self, connection: http.client.HTTPConnection) -> dict[str, int]:
        """By team, how many of its hand-ins the leaderboard of the large class counts."""
        connection.request("GET", "/api/v1/editions/load/leaderboard?class=large")
        return {
            each["team"]: each["hand_ins"]
            for each in json.loads(connection.getresponse().read())["standings"]
        }


def measure(url: str, seconds: float, rush_teams: int) -> dict[str, object]:
    """Load with judging beside it, then the rush."""
    port, database = free_port(), Database(url, pool_size=1)
    free_the_day(database)
    with database.read() as session:
        people = session.scalars(select(Person).order_by(Person.id).limit(10)).all()
    ask = reader([sign_in(database, each) for each in people])
    server, worker = start_server(url, port), start_worker(url)
    try:
        wait_for(port)
        for number in range(48):
            ask(http.client.HTTPConnection("127.0.0.1", port, timeout=60), number)
        drip = Dripping(port)
        dripping = threading.Thread(target=drip.run)
        dripping.start()
        took = at_rate(port, READS_PER_SECOND, seconds, ask)
        drip.over.set()
        dripping.join()
        free_the_day(database)
        rush = rush_of(port, database, rush_teams)
    finally:
        for process in (worker, server):
            process.send_signal(signal.SIGINT)
        for process in (worker, server):
            process.wait(timeout=30)
        database.close()
    return {
        "reads_per_second": READS_PER_SECOND,
        "signed_in_share": 1 / SIGNED_IN_OF,
        "requests": len(took),
        "errors": sum(status != 200 for _, status in took),
        **quantiles(took),
        "judged_beside": len(drip.waits),
        "not_judged_beside": len(drip.sent) + len(drip.refused),
        "slowest_to_stand_on_the_page_seconds": round(max(drip.waits), 2) if drip.waits else None,
        **rush,
    }


def quantiles(took: Sequence[tuple[float, int]], name: str = "") -> dict[str, float]:
    """p50, p95 and p99 in milliseconds."""
    latencies = sorted(each for each, _ in took)
    return {
        f"{name}p{part}_ms": round(1000 * latencies[len(latencies) * part // 100], 1) for part in (50, 95, 99)
    }


def free_the_day(database: Database) -> None:
    """Let every team hand in again today."""
    with database.write() as session:
        session.execute(
            text("UPDATE hand_in SET slot = 'run-' || id WHERE slot = :slot"),
            {"slot": f"{aoe_day(database.now())}#0"},
        )


def rush_of(port: int, database: Database, teams: int) -> dict[str, object]:
    """Every team hands in within the last minute, and once more at nearly the same moment; all are judged."""
    statuses: list[int] = []

    def twice(connection: http.client.HTTPConnection, number: int) -> int:
        statuses.append(post_hand_in(connection, 1 + number // 2))
        return statuses[-1]

    with database.read() as session:
        before = session.scalar(select(func.max(Submission.id))) or 0
    seconds = RUSH_SECONDS * teams / 500
    took = at_rate(port, 2 * teams / seconds, seconds, twice)
    began = time.monotonic()
    new = (Submission.id > before) & (Submission.slot == f"{aoe_day(database.now())}#0")
    while time.monotonic() - began < JUDGED_WITHIN:
        with database.read() as session:
            if not session.scalar(select(func.count()).where(Job.state.in_(["waiting", "running"]))):
                break
        time.sleep(0.5)
    with database.read() as session:
        kept, of_teams = session.execute(
            select(func.count(), func.count(Submission.team_id.distinct())).where(new)
        ).one()
        strays = session.scalar(select(func.count()).where(Submission.id > before, ~new))
        whole = session.scalar(
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
        judgements = session.scalar(select(func.count()).where(JudgementRow.submission_id > before))
    return {
        "rush_teams": teams,
        "rush_seconds": seconds,
        "rush_accepted": statuses.count(201),
        "rush_refused_as_second": statuses.count(429),
        "rush_lost": statuses.count(201) - kept,
        "rush_doubled": kept - of_teams + strays,
        **quantiles(took, "rush_"),
        "rush_judged_whole": whole,
        "rush_judgements_missing_or_double": judgements - 4 * len(PROMPTS) * kept,
        "rush_judged_seconds_after_it": round(time.monotonic() - began, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--postgres", metavar="URL", help="an empty PostgreSQL database")
    parser.add_argument("--no-sqlite", action="store_true", help="measure PostgreSQL alone")
    parser.add_argument("--teams", type=int, default=500)
    parser.add_argument("--days", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--folder", type=Path, help="keep the SQLite file here, and use it again")
    parser.add_argument("--fill-only", action="store_true", help="fill the databases and leave")
    parser.add_argument("--quick", action="store_true", help="a small event and a short look, under a minute")
    parser.add_argument("--out", type=Path, help="the record; results/hackathon.json, with --quick nowhere")
    given = parser.parse_args()
    if given.quick:
        given.teams, given.days, given.seconds = 50, 10, 10
    folder = given.folder or Path(tempfile.mkdtemp(prefix="smalltale-load-"))
    folder.mkdir(parents=True, exist_ok=True)
    urls = {"sqlite": f"sqlite:///{folder / 'load.db'}", "postgresql": given.postgres}
    if given.no_sqlite:
        del urls["sqlite"]
    figures: dict[str, object] = {"benchmark": "hackathon"}
    for name, url in urls.items():
        if url:
            rows = fill(Database(url), given.teams, given.days)
            if not given.fill_only:
                figures[name] = {**measured_at(), **rows, **measure(url, given.seconds, given.teams)}
    if not given.folder:
        shutil.rmtree(folder)
    out = given.out or (None if given.quick or given.fill_only else RESULTS / "hackathon.json")
    if out:
        # One database may have been measured in a run of its own; each keeps its own commit and day.
        write_json(out, {**(json.loads(out.read_text()) if out.exists() else {}), **figures})
    print(json.dumps(figures))


def fill(database: Database, teams: int, days: int) -> dict[str, object]:
    """Seed an empty database. Returns what is in it."""
    database.migrate()
    with database.read() as session:
        filled = session.scalar(select(func.count()).select_from(Submission))
    if not filled:
        seed(database, teams, days)
    with database.read() as session:
        rows: dict[str, object] = {
            "database": database_version(session),
            "teams": teams,
            "hand_ins": session.scalar(select(func.count()).select_from(Submission)),
            "judgements": session.scalar(select(func.count()).select_from(JudgementRow)),
        }
    database.close()
    return rows


if __name__ == "__main__":
    main()
