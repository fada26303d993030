"""Fills a database with a long event for load.py: 500 teams, 20,000 submissions, 5 million judgements.

Stories are short (about 40 characters) so that a run fits on a small disk; leaderboards never read them.
"""

from __future__ import annotations

import hashlib
import random
import statistics
from datetime import timedelta

from sqlalchemy import insert, text

from smalltale.rules import aoe_day, rules_from_table
from smalltale.server.accounts.accounts import hash_token
from smalltale.server.database.models import ApiToken, Person, Score, Submission, Team, TeamMember
from smalltale.server.database.session import Database
from smalltale.server.editions.editions import EditionDraft, PromptSetDraft, import_edition

CLASSES = ("small", "medium", "large")
PROMPTS = [f"Once upon a time there was story number {i}. One day," for i in range(63)]
PANEL = "scripted-1"


def seed(database: Database, teams: int, days: int) -> None:
    """Fill the database as a long event would, with SQL."""
    database.migrate()
    now, rng = database.now(), random.Random(1)
    start, end = aoe_day(now - timedelta(days=days + 5)), aoe_day(now + timedelta(days=5))
    toml = f'start = {start}\nend = {end}\n[edition]\nslug = "load"\n'
    draft = EditionDraft(
        slug="load",
        title="Load",
        toml=toml,
        rules=rules_from_table({"start": start, "end": end}, "benchmark"),
        judges=["scripted-a"],
        rubric="scripted",
        panel=PANEL,
        sets=[
            PromptSetDraft(
                kind="daily", appears=now - timedelta(days=days + 5), prompts=PROMPTS, public_share=0.5
            )
        ],
    )
    edition = import_edition(database, draft)
    numbers = range(1, teams + 1)
    with database.write() as session:
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
            insert(TeamMember),
            [{"edition_id": edition.id, "person_id": n, "team_id": n, "seat": 0} for n in numbers],
        )
        session.execute(
            insert(ApiToken),
            [
                {
                    "token_hash": hash_token(token(n)),
                    "person_id": n,
                    "name": "load",
                    "scopes": ["read", "hand-in"],
                    "created": now,
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
            session.execute(insert(Submission), rows)
            session.execute(
                insert(Score),
                [score for n in numbers for score in make_scores(day * teams + n, n, rng)],
            )
    with database.write() as session:
        session.execute(
            text(
                "INSERT INTO completion (hand_in_id, prompt_id, sample, text) SELECT h.id, p.id, s.n, 'and they lived happily, ' || h.id || ', to the end' "
                "FROM hand_in h CROSS JOIN prompt p CROSS JOIN (SELECT 0 AS n UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3) s ORDER BY h.id, p.id"
            )
        )
    with database.write() as session:
        session.execute(
            text(
                "INSERT INTO judgement (completion_id, panel, judge, hand_in_id, state, overall, scores, age, words) "
                f"SELECT id, '{PANEL}', 'scripted-a', hand_in_id, 'ok', 7.0, '{{\"grammar\": 7, \"plot\": 7}}', 'C', '' FROM completion ORDER BY id"
            )
        )
        if not database.is_sqlite:
            for table in ("person", "team", "hand_in"):
                session.execute(
                    text(
                        f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))"
                    )
                )
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE"))


def token(number: int) -> str:
    """The API token of a team."""
    return f"smalltale_{hashlib.sha256(str(number).encode()).hexdigest()}"


def make_scores(submission_id: int, team: int, rng: random.Random) -> list[dict[str, object]]:
    """The three score rows of a submission."""
    skill = 5 + (team * 37 % 500) / 125
    rows = []
    for side, first, step in (("public", 1, 2), ("private", 2, 2), ("all", 1, 1)):
        means = {
            str(p): round(skill + rng.uniform(-0.8, 0.8), 3) for p in range(first, len(PROMPTS) + 1, step)
        }
        mean = statistics.fmean(means.values())
        rows.append(
            {
                "submission_id": submission_id,
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
