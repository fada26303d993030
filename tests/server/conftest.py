"""Fixture `hackathon`: a hackathon on SQLite or PostgreSQL with a settable clock, and helpers to add people, teams and submissions."""

from __future__ import annotations

import csv
import io
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from smalltale.rules import rules_from_table
from smalltale.server.accounts import accounts as people
from smalltale.server.accounts.passwords import hash_password
from smalltale.server.database.models import Edition, Person, Submission
from smalltale.server.database.session import Database
from smalltale.server.editions import teams
from smalltale.server.editions.editions import EditionDraft, PromptSetDraft, import_edition
from smalltale.server.judging.scripted import ScriptedPanel
from smalltale.server.submissions.declaration import Declaration
from smalltale.server.submissions.receive import receive_submission
from smalltale.server.web.app import create_app
from smalltale.server.worker import run_worker

PASSWORD = "once upon a time"
PASSWORD_HASH = hash_password(PASSWORD)
PROMPTS = [f"Once upon a time, number {i} went out. One day," for i in range(6)]
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
EDITION_TOML = 'start = 2026-03-01\nend = 2026-04-07\n[edition]\nslug = "first"\n'


@dataclass
class Clock:
    """A server clock that tests set."""

    now: datetime = START + timedelta(days=2)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **parts: float) -> None:
        self.now += timedelta(**parts)


@dataclass
class Hackathon:
    """A running edition, its database and its clock."""

    database: Database
    clock: Clock
    edition: Edition
    panel: ScriptedPanel = field(default_factory=ScriptedPanel)

    def add_person(self, handle: str, *, admin: bool = False) -> Person:
        with self.database.write() as session:
            return people.create_person(session, self.database, handle, password=PASSWORD_HASH, admin=admin)

    def add_team(self, handle: str, *, name: str | None = None, hardware: str = "MacBook Air M2") -> Person:
        """Add a person with a team; returns the person."""
        person = self.add_person(handle)
        teams.create_team(self.database, self.edition, person, name or f"Team {handle}", hardware)
        return person

    def submit(
        self,
        person: Person,
        *,
        kind: str = "daily",
        content: bytes | None = None,
        file_name: str = "stories.csv",
        **declared: object,
    ) -> Submission:
        return receive_submission(
            self.database,
            self.edition,
            person,
            kind,
            file_name,
            content or submission_csv(),
            declaration(**declared),
        )

    def run_worker(self) -> int:
        """Judge until no job waits; returns the number of jobs."""
        return run_worker(
            self.database, lambda _edition, _panel: self.panel, threading.Event(), until_idle=True
        )

    def client(self) -> TestClient:
        return TestClient(create_app(self.database), base_url="http://hackathon.test")

    def sign_in(self, handle: str) -> TestClient:
        """A browser signed in as this person."""
        client = self.client()
        response = client.post(
            "/sign-in",
            data={"form_token": read_form_token(client, "/sign-in"), "handle": handle, "password": PASSWORD},
            follow_redirects=False,
        )
        assert response.status_code == 303, response.text
        return client


def read_form_token(client: TestClient, path: str) -> str:
    """The form token on a page."""
    page = client.get(path).text
    return page.split('name="form_token" value="')[1].split('"')[0]


def form_fields(**changes: str) -> dict[str, str]:
    """The fields of a valid submission form, without the file."""
    return {
        "kind": "daily",
        "do": "submit",
        "weight_class": "small",
        "counted_parameters": "29000000",
        "model_hash": "cd" * 32,
        "data": "TinyStories",
        "from_scratch": "yes",
        **changes,
    }


def submit_form(client: TestClient, content: bytes, **changes: str) -> str:
    """Submit by the form; returns the address of the submission's page."""
    data = {**form_fields(**changes), "form_token": read_form_token(client, "/submit")}
    response = client.post(
        "/submit", data=data, files={"file": ("stories.csv", content)}, follow_redirects=False
    )
    assert response.status_code == 303, response.text
    return response.headers["location"]


def submission_csv(word: str = "and laughed", prompts: list[str] = PROMPTS) -> bytes:
    """A valid submission file: four different completions per prompt."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["prompt", "completion"])
    writer.writerows(
        [prompt, f" {word} {sample} times with friend number {sample + position}."]
        for position, prompt in enumerate(prompts)
        for sample in range(4)
    )
    return text.getvalue().encode()


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


def create_hackathon(url: str) -> Hackathon:
    clock = Clock()
    database = Database(url, clock=clock)
    database.migrate()
    rules = rules_from_table(tomllib.loads(EDITION_TOML), "test")
    sets = [
        PromptSetDraft(kind="daily", appears=START, prompts=PROMPTS, public_share=0.5),
        PromptSetDraft(
            kind="final",
            appears=START + timedelta(days=30),
            prompts=[f"F {prompt}" for prompt in PROMPTS],
            public_share=0.0,
        ),
    ]
    draft = EditionDraft(
        slug="first",
        title="The First",
        toml=EDITION_TOML,
        rules=rules,
        judges=["scripted-a", "scripted-b"],
        rubric="scripted",
        panel="scripted-1",
        sets=sets,
    )
    return Hackathon(database, clock, import_edition(database, draft))


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server of our own, or the one of SMALLTALE_TEST_POSTGRES; skips if PostgreSQL is not installed."""
    if url := os.environ.get("SMALLTALE_TEST_POSTGRES"):
        yield url
        return
    debian_paths = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")))
    pg_ctl = shutil.which("pg_ctl") or (debian_paths[-1] if debian_paths else None)
    if pg_ctl is None:
        pytest.skip("PostgreSQL is not installed; apt-get install postgresql")
    # Not in tmp_path: pytest runs of the same user delete old temporary folders of pytest.
    folder = Path(tempfile.mkdtemp(prefix="smalltale-postgres-"))
    with socket.socket() as free_socket:
        free_socket.bind(("127.0.0.1", 0))
        port = free_socket.getsockname()[1]
    # PostgreSQL refuses to run as root; Debian's package creates the user postgres.
    run_as = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if run_as:
        shutil.chown(folder, "postgres")
    command = [*run_as, str(Path(pg_ctl).resolve()), "-D", str(folder / "data"), "-w"]
    subprocess.run(
        [*command, "initdb", "-o", "-A trust -U postgres --no-sync"], check=True, capture_output=True, cwd="/"
    )
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
    with (folder / "log").open("wb") as log:
        subprocess.run([*command, "-o", options, "start"], check=True, stdout=log, stderr=log, cwd="/")
    yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
    subprocess.run([*command, "-m", "immediate", "stop"], check=True, capture_output=True, cwd="/")
    shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.all)])
def hackathon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hackathon]:
    """A hackathon on its third day, on SQLite and (marked `all`) on PostgreSQL."""
    url = f"sqlite:///{tmp_path / 'hackathon.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
        database = Database(url)
        with database.write() as session:
            session.execute(text("DROP SCHEMA public CASCADE"))
            session.execute(text("CREATE SCHEMA public"))
        database.close()
    hackathon = create_hackathon(url)
    yield hackathon
    hackathon.database.close()
