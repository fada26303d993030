"""A hackathon to test with: a database of each kind, a clock that can be set, an edition with people and teams."""

from __future__ import annotations

import csv
import io
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from smalltale.rules import rules_from
from smalltale.server.accounts import accounts as people
from smalltale.server.accounts.passwords import hash_password
from smalltale.server.database.models import Edition, HandIn, Person
from smalltale.server.database.session import Store
from smalltale.server.editions import teams
from smalltale.server.editions.editions import EditionDraft, PromptSetDraft, import_edition
from smalltale.server.judging.scripted import ScriptedPanel
from smalltale.server.submissions.declaration import Declaration
from smalltale.server.submissions.receive import hand_in
from smalltale.server.web.app import create_app
from smalltale.server.worker import work

PASSWORD = "once upon a time"
KEPT_PASSWORD = hash_password(PASSWORD)
PROMPTS = [f"Once upon a time, number {i} went out. One day," for i in range(6)]
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
TOML = 'start = 2026-03-01\nend = 2026-04-07\n[edition]\nslug = "first"\n'


@dataclass
class Clock:
    """A server's clock that tests set."""

    now: datetime = START + timedelta(days=2)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **parts: float) -> None:
        self.now += timedelta(**parts)


@dataclass
class Fair:
    """A running hackathon."""

    store: Store
    clock: Clock
    edition: Edition
    panel: ScriptedPanel = field(default_factory=ScriptedPanel)

    def person(self, handle: str, *, admin: bool = False) -> Person:
        with self.store.write() as session:
            return people.add_person(session, self.store, handle, password=KEPT_PASSWORD, admin=admin)

    def team(self, handle: str, *, name: str | None = None, hardware: str = "MacBook Air M2") -> Person:
        person = self.person(handle)
        teams.make_team(self.store, self.edition, person, name or f"Team {handle}", hardware)
        return person

    def hand_in(
        self,
        person: Person,
        *,
        kind: str = "daily",
        content: bytes | None = None,
        file_name: str = "stories.csv",
        **declared: object,
    ) -> HandIn:
        return hand_in(
            self.store, self.edition, person, kind, file_name, content or stories(), declaration(**declared)
        )

    def judge(self) -> int:
        return work(self.store, lambda _edition, _panel: self.panel, threading.Event(), until_idle=True)

    def client(self) -> TestClient:
        return TestClient(create_app(self.store), base_url="http://fair.test")

    def signed_in(self, handle: str) -> TestClient:
        client = self.client()
        answer = client.post(
            "/sign-in",
            data={"form_token": token_on(client, "/sign-in"), "handle": handle, "password": PASSWORD},
            follow_redirects=False,
        )
        assert answer.status_code == 303, answer.text
        return client


def token_on(client: TestClient, path: str) -> str:
    """The form token on a page."""
    page = client.get(path).text
    return page.split('name="form_token" value="')[1].split('"')[0]


def stories(word: str = "and laughed", prompts: list[str] = PROMPTS) -> bytes:
    """A right hand-in."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["prompt", "completion"])
    writer.writerows(
        [prompt, f" {word} {n} times with friend number {n + i}."]
        for i, prompt in enumerate(prompts)
        for n in range(4)
    )
    return out.getvalue().encode()


def declaration(**declared: object) -> Declaration:
    return Declaration(
        **{
            "weight_class": "small",
            "counted_parameters": "29,000,000",
            "model_hash": "ab" * 32,
            "data": "TinyStories",
            "from_scratch": True,
            **declared,
        }
    )  # type: ignore[arg-type]


def make_fair(url: str) -> Fair:
    clock = Clock()
    store = Store(url, clock=clock)
    store.migrate()
    import tomllib

    rules = rules_from(tomllib.loads(TOML), "test")
    sets = [
        PromptSetDraft(kind="daily", appears=START, prompts=PROMPTS, public_share=0.5),
        PromptSetDraft(
            kind="final",
            appears=START + timedelta(days=30),
            prompts=[f"F {each}" for each in PROMPTS],
            public_share=0.0,
        ),
    ]
    draft = EditionDraft(
        slug="first",
        title="The First",
        toml=TOML,
        rules=rules,
        judges=["scripted-a", "scripted-b"],
        rubric="scripted",
        panel="scripted-1",
        sets=sets,
    )
    return Fair(store, clock, import_edition(store, draft))


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL of our own, started for the tests; skips where the machine has none."""
    if url := os.environ.get("SMALLTALE_TEST_POSTGRES"):
        yield url
        return
    found = shutil.which("pg_ctl") or next(
        iter(sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")), reverse=True)), None
    )
    if found is None:
        pytest.skip("PostgreSQL is not installed; apt-get install postgresql")
    # A folder of its own: other pytest runs of the same user clean up old folders of pytest.
    folder = Path(tempfile.mkdtemp(prefix="smalltale-postgres-"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # PostgreSQL refuses to run as root; Debian's package brings the user postgres.
    become = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if become:
        shutil.chown(folder, "postgres")
    control = [*become, str(Path(found).resolve()), "-D", str(folder / "data"), "-w"]
    subprocess.run(
        [*control, "initdb", "-o", "-A trust -U postgres --no-sync"], check=True, capture_output=True, cwd="/"
    )
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
    with (folder / "log").open("wb") as log:
        subprocess.run([*control, "-o", options, "start"], check=True, stdout=log, stderr=log, cwd="/")
    yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
    subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True, cwd="/")
    shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.all)])
def fair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fair]:
    """A hackathon on its third day, on SQLite and (in test-all) on PostgreSQL."""
    if request.param == "sqlite":
        made = make_fair(f"sqlite:///{tmp_path / 'fair.db'}")
    else:
        url = request.getfixturevalue("postgres_url")
        empty = Store(url)
        with empty.write() as session:
            session.execute(text("DROP SCHEMA public CASCADE"))
            session.execute(text("CREATE SCHEMA public"))
        empty.close()
        made = make_fair(url)
    yield made
    made.store.close()
