"""The client of contestants: tokens, submissions, and commands that start without torch."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from smalltale.errors import SmalltaleError
from smalltale.server.accounts import accounts
from smalltale.server.client import call_api, load_token, read_declaration, save_token, server_url, token_file
from smalltale.server.database.models import Person
from smalltale.server.web.app import create_app

from .conftest import Hackathon, submission_csv


@pytest.fixture
def url(hackathon: Hackathon) -> Iterator[str]:
    """The URL of a real server on a free port."""
    server = uvicorn.Server(
        uvicorn.Config(create_app(hackathon.database), port=0, log_level="critical", ws="none")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def test_the_client_submits_a_file_and_reports_every_problem(
    hackathon: Hackathon, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("SMALLTALE_TOKEN", raising=False)
    person: Person = hackathon.add_team("ada")
    with pytest.raises(SmalltaleError, match="smalltale login"):
        load_token(url)
    save_token(url, accounts.create_token(hackathon.database, person, "test", ["hand-in"]))
    assert token_file().stat().st_mode & 0o077 == 0
    path = tmp_path / "stories.csv"
    path.write_bytes(b"prompt,completion\na,b\n")
    declaration = {
        "team": "x",
        "weight_class": "small",
        "counted_parameters": 1000,
        "model_hash": "aa" * 32,
        "data": ["TinyStories"],
        "from_scratch": True,
    }
    (tmp_path / "submission.json").write_text(json.dumps(declaration))
    address, fields, files = "/editions/first/hand-ins/daily", read_declaration(path), [("file", path)]
    with pytest.raises(SmalltaleError, match="every prompt needs 4") as raised:
        call_api(url, address, token=load_token(url), fields=fields, files=files)
    assert str(raised.value).count("file:") == 7
    path.write_bytes(submission_csv())
    submission = call_api(url, address, token=load_token(url), fields=fields, files=files)
    assert submission["state"] == "queued"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://far.example", "unencrypted"),
        ("ftp://x", "is not a server's address"),
        ("far", "is not a server's address"),
    ],
)
def test_a_token_is_never_sent_unencrypted(url: str, message: str) -> None:
    with pytest.raises(SmalltaleError, match=message):
        server_url(url)


def test_the_commands_start_without_importing_torch() -> None:
    code = "import smalltale.cli.edition, smalltale.cli.submit, smalltale.cli.serve, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code]).returncode == 0
