"""The hackathon's server under load: 500 teams, 20,000 hand-ins, 5 million judgements, on SQLite and on PostgreSQL.

In: nothing, or --postgres URL of an empty database. Out: results/hackathon.json with the figures of each database.
Beware: stories are short (about 40 characters) so that a run fits a small disk; leaderboards never read them.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import http.client
import io
import json
import os
import platform
import queue
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import func, insert, select, text

from smalltale.files import git_commit, write_json
from smalltale.hackathon.editions import EditionDraft, PromptSetDraft, import_edition
from smalltale.hackathon.people import hashed
from smalltale.hackathon.store import Store
from smalltale.hackathon.tables import ApiToken, HandIn, Judgement, Member, Person, Score, Team
from smalltale.rules import aoe_day, rules_from

CLASSES = ("small", "medium", "large")
PROMPTS = [f"Once upon a time there was story number {i}. One day," for i in range(63)]
PANEL = "scripted-1"


def seed(store: Store, teams: int, days: int) -> None:
    """Fill the database as a long event would, by the database's own means."""
    store.migrate()
    now, rng = store.now(), random.Random(1)
    start, end = aoe_day(now - timedelta(days=days + 5)), aoe_day(now + timedelta(days=5))
    toml = f'start = {start}\nend = {end}\n[edition]\nslug = "load"\n'
    draft = EditionDraft(
        slug="load",
        title="Load",
        toml=toml,
        rules=rules_from({"start": start, "end": end}, "benchmark"),
        judges=["scripted-a"],
        rubric="scripted",
        panel=PANEL,
        sets=[
            PromptSetDraft(
                kind="daily", appears=now - timedelta(days=days + 5), prompts=PROMPTS, public_share=0.5
            )
        ],
    )
    edition = import_edition(store, draft)
    numbers = range(1, teams + 1)
    with store.write() as session:
        session.execute(
            insert(Person),
            [{"id": n, "handle": f"p{n}", "joined": now, "admin": False, "disabled": False} for n in numbers],
        )
        session.execute(
            insert(Team),
            [
                {
                    "id": n,
                    "edition_id": edition.id,
                    "name": f"Team {n}",
                    "name_key": f"team{n}",
                    "hardware": "laptop",
                    "weight_class": "small",
                    "confirmed": True,
                    "declared": now,
                }
                for n in numbers
            ],
        )
        session.execute(
            insert(Member),
            [{"edition_id": edition.id, "person_id": n, "team_id": n, "seat": 0} for n in numbers],
        )
        session.execute(
            insert(ApiToken),
            [
                {
                    "token_hash": hashed(token(n)),
                    "person_id": n,
                    "name": "load",
                    "scopes": ["read", "hand-in"],
                    "made": now,
                    "last_used": now + timedelta(days=1),
                }
                for n in numbers
            ],
        )
        for day in range(days):
            rows = [
                {
                    "id": day * teams + n,
                    "edition_id": edition.id,
                    "team_id": n,
                    "person_id": n,
                    "prompt_set_id": 1,
                    "kind": "daily",
                    "slot": f"seeded-{day}#0",
                    "received": now - timedelta(days=days - day),
                    "sha256": "0" * 64,
                    "weight_class": CLASSES[n % 3],
                    "counted_parameters": 20_000_000,
                    "model_hash": "0" * 64,
                    "declaration": {},
                    "warnings": [],
                    "state": "judged",
                }
                for n in numbers
            ]
            session.execute(insert(HandIn), rows)
            session.execute(
                insert(Score),
                [score for n in numbers for score in scores(day * teams + n, n, rng)],
            )
    with store.write() as session:
        session.execute(
            text(
                "INSERT INTO completion (hand_in_id, prompt_id, sample, text) SELECT h.id, p.id, s.n, 'and they lived happily, ' || h.id || ', to the end' "
                "FROM hand_in h CROSS JOIN prompt p CROSS JOIN (SELECT 0 AS n UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3) s ORDER BY h.id, p.id"
            )
        )
    with store.write() as session:
        session.execute(
            text(
                "INSERT INTO judgement (completion_id, panel, judge, hand_in_id, state, overall, scores, age, words) "
                f"SELECT id, '{PANEL}', 'scripted-a', hand_in_id, 'ok', 7.0, '{{\"grammar\": 7, \"plot\": 7}}', 'C', '' FROM completion ORDER BY id"
            )
        )
        if not store.is_sqlite:
            for table in ("person", "team", "hand_in"):
                session.execute(
                    text(
                        f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))"
                    )
                )
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))


def token(number: int) -> str:
    """A team's API token."""
    return f"smalltale_{hashlib.sha256(str(number).encode()).hexdigest()}"


def scores(hand_in: int, team: int, rng: random.Random) -> list[dict[str, object]]:
    """The three score rows of a seeded hand-in."""
    skill = 5 + (team * 37 % 500) / 125
    rows = []
    for side, first, step in (("public", 1, 2), ("private", 2, 2), ("all", 1, 1)):
        means = {
            str(p): round(skill + rng.uniform(-0.8, 0.8), 3) for p in range(first, len(PROMPTS) + 1, step)
        }
        mean = statistics.fmean(means.values())
        rows.append(
            {
                "hand_in_id": hand_in,
                "panel": PANEL,
                "side": side,
                "mean": mean,
                "low": mean - 0.1,
                "high": mean + 0.1,
                "criteria": {"grammar": mean, "creativity": mean, "consistency": mean, "plot": mean},
                "prompt_means": means,
                "judged": 4 * len(means),
                "expected": 4 * len(means),
                "disagreement": None,
                "qualified": True,
            }
        )
    return rows


def csv_of(number: int) -> bytes:
    """A hand-in file."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["prompt", "completion"])
    writer.writerows(
        [prompt, f" they met {n} friends of team {number} and went home happy."]
        for prompt in PROMPTS
        for n in range(4)
    )
    return out.getvalue().encode()


def post_hand_in(connection: http.client.HTTPConnection, number: int) -> tuple[int, dict[str, object]]:
    """Hand in for a team."""
    fields = {
        "weight_class": "large",
        "counted_parameters": "20000000",
        "model_hash": "a" * 64,
        "data": "TinyStories",
        "from_scratch": "true",
    }
    mark = "frame-of-the-form"
    body = b"".join(
        f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    )
    body += (
        f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\nContent-Type: text/csv\r\n\r\n'.encode()
        + csv_of(number)
        + f"\r\n--{mark}--\r\n".encode()
    )
    connection.request(
        "POST",
        "/api/v1/editions/load/hand-ins/daily",
        body,
        {"Authorization": f"Bearer {token(number)}", "Content-Type": f"multipart/form-data; boundary={mark}"},
    )
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


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


def get_page(connection: http.client.HTTPConnection, number: int) -> int:
    """A leaderboard page, over the classes and their pages."""
    name = ("", *CLASSES)[number % 4]
    connection.request("GET", f"/e/load/leaderboard?class={name}&page={1 + number // 4 % 3}")
    answer = connection.getresponse()
    answer.read()
    return answer.status


def stands(connection: http.client.HTTPConnection, hand_in: int, url: str, since: float) -> float:
    """Seconds until a hand-in's own score is settled and the leaderboard's revision has moved past it."""
    store = Store(url, pool_size=1)
    try:
        while time.monotonic() - since < 30:
            with store.read() as session:
                if session.get(Score, (hand_in, PANEL, "public")) is not None:
                    return time.monotonic() - since
            time.sleep(0.1)
    finally:
        store.close()
    return float("inf")


def measure(url: str, seconds: float) -> dict[str, object]:
    """Load, judging beside it, then the rush."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-c", SERVER, url, str(port)])
    worker = subprocess.Popen([sys.executable, "-c", WORKER, url])
    try:
        wait_for(port)
        for number in range(12):
            get_page(http.client.HTTPConnection("127.0.0.1", port, timeout=60), number)
        stop, waits = threading.Event(), []

        def drip() -> None:
            connection, number = http.client.HTTPConnection("127.0.0.1", port, timeout=60), 0
            watchers = []
            while not stop.wait(1.0):
                number += 1
                status, body = post_hand_in(connection, number)
                assert status == 201, body
                since = time.monotonic()
                watcher = threading.Thread(
                    target=lambda row=int(str(body["id"])), since=since: waits.append(
                        stands(connection, row, url, since)
                    )
                )
                watcher.start()
                watchers.append(watcher)
            for each in watchers:
                each.join()

        dripping = threading.Thread(target=drip)
        dripping.start()
        took = at_rate(port, 100, seconds, get_page)
        stop.set()
        dripping.join()
        latencies = sorted(each for each, _ in took)
        rush = rush_of(port, url, first=101)
    finally:
        for process in (worker, server):
            process.kill()
            process.wait()
    return {
        "requests": len(took),
        "errors": sum(status != 200 for _, status in took),
        "p50_ms": round(1000 * latencies[len(latencies) // 2], 1),
        "p95_ms": round(1000 * latencies[int(len(latencies) * 0.95)], 1),
        "p99_ms": round(1000 * latencies[int(len(latencies) * 0.99)], 1),
        "judged_beside": len(waits),
        "slowest_to_stand_seconds": round(max(waits), 2) if waits else None,
        **rush,
    }


def rush_of(port: int, url: str, first: int) -> dict[str, object]:
    """Every team hands in twice at nearly the same moment, 500 teams over a minute."""
    statuses: list[int] = []

    def twice(connection: http.client.HTTPConnection, number: int) -> int:
        status, _ = post_hand_in(connection, first + number // 2)
        statuses.append(status)
        return status

    count = 400
    took = at_rate(port, 2 * count / (60 * count / 500), 60 * count / 500, twice)
    store = Store(url, pool_size=1)
    with store.read() as session:
        today = aoe_day(datetime.now(UTC))
        kept = session.scalar(
            select(func.count())
            .select_from(HandIn)
            .where(HandIn.slot == f"{today}#0", HandIn.team_id >= first)
        )
        doubled = session.scalar(
            select(func.count()).select_from(
                select(HandIn.team_id)
                .where(HandIn.slot.like(f"{today}%"))
                .group_by(HandIn.team_id)
                .having(func.count() > 1)
                .subquery()
            )
        )
    store.close()
    latencies = sorted(each for each, _ in took)
    return {
        "rush_teams": count,
        "rush_accepted": statuses.count(201),
        "rush_refused_as_second": statuses.count(429),
        "rush_kept": kept,
        "rush_doubled": doubled,
        "rush_p95_ms": round(1000 * latencies[int(len(latencies) * 0.95)], 1),
    }


SERVER = """
import sys, uvicorn
from smalltale.hackathon.app import create_app
from smalltale.hackathon.store import Store
uvicorn.run(create_app(Store(sys.argv[1])), port=int(sys.argv[2]), log_level="error")
"""
WORKER = """
import sys, threading
from smalltale.hackathon.panels import panel_of
from smalltale.hackathon.store import Store
from smalltale.hackathon.worker import work
work(Store(sys.argv[1]), panel_of, threading.Event())
"""


def wait_for(port: int) -> None:
    """Until the server answers."""
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the server did not start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--postgres", help="URL of an empty PostgreSQL database; without it only SQLite is measured"
    )
    parser.add_argument("--teams", type=int, default=500)
    parser.add_argument("--days", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--folder", type=Path, help="keep the SQLite file here, and use it again")
    parser.add_argument("--seed-only", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "hackathon.json")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="smalltale-load-"))
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, object] = {}
    for name, url in (("sqlite", f"sqlite:///{folder / 'load.db'}"), ("postgresql", given.postgres)):
        if not url:
            continue
        store = Store(url)
        store.migrate()
        with store.read() as session:
            filled = session.scalar(select(func.count()).select_from(HandIn))
        began = time.monotonic()
        if not filled:
            seed(store, given.teams, given.days)
        with store.read() as session:
            rows = {
                "hand_ins": session.scalar(select(func.count()).select_from(HandIn)),
                "judgements": session.scalar(select(func.count()).select_from(Judgement)),
            }
        store.close()
        print(name, rows, f"seeded in {time.monotonic() - began:.0f} s", flush=True)
        if not given.seed_only:
            figures[name] = {**rows, **measure(url, given.seconds)}
            print(json.dumps(figures[name]), flush=True)
    if figures:
        machine = {
            "processor": platform.processor() or platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
        }
        record = {
            "benchmark": "hackathon",
            "machine": machine,
            "commit": git_commit(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            **figures,
        }
        write_json(given.out, record)
        p95 = [each["p95_ms"] for each in figures.values() if isinstance(each, dict)]
        print(json.dumps({"p95_ms": max(p95)}))


if __name__ == "__main__":
    main()
