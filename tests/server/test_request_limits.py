"""The door under attack, the logs behind it, and the files that put both on a machine."""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from typer.testing import CliRunner

from smalltale.cli import build_app
from smalltale.server.accounts import accounts as people
from smalltale.server.web.app import create_app
from smalltale.server.web.middleware import request_limits as limits
from smalltale.server.web.middleware.json_logs import JsonLines, scrubbed

from .conftest import Fair, token_on

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy"


@pytest.fixture
def port(fair: Fair) -> Iterator[int]:
    """A real server, whose port is given."""
    server = uvicorn.Server(uvicorn.Config(create_app(fair.store), port=0, log_level="critical", ws="none"))
    running = threading.Thread(target=server.run)
    running.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    running.join()


def spoken(port: int, *parts: bytes, wait: float = 0.0) -> bytes:
    """What a server answers to bytes that come one part after the other."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        for part in parts:
            line.sendall(part)
            if select.select([line], [], [], wait)[0]:
                break
        answer = b""
        while more := line.recv(65_536):
            answer += more
            if b"\r\n\r\n" in answer and b"connection: close" not in answer.lower():
                break
        return answer


HEAD = b"POST /sign-in HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\n"


def test_an_upload_that_stalls_is_refused_and_does_not_hold_the_server(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PIECE_SECONDS", 0.3)
    began = time.monotonic()
    waiting = [threading.Thread(target=spoken, args=(port, HEAD, b"a")) for _ in range(20)]
    for each in waiting:
        each.start()
    assert b" 200 " in spoken(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = spoken(port, HEAD, b"a")
    assert b" 408 " in answer
    assert b"the upload was too slow" in answer
    for each in waiting:
        each.join()
    assert time.monotonic() - began < 5


def test_an_upload_that_trickles_is_refused_when_its_time_is_over(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "UPLOAD_SECONDS", 0.5)
    answer = spoken(port, HEAD, *[b"a"] * 9, wait=0.1)
    assert b" 408 " in answer
    assert b"whole within 0.5 seconds" in answer


def test_a_body_without_a_length_is_cut_off_at_the_limit(fair: Fair) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield bytes(1 << 20)

    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert fair.client().post("/sign-in", content=endless(), headers=form).status_code == 413


def test_what_is_packed_is_not_unpacked(fair: Fair) -> None:
    fair.team("ada")
    client = fair.signed_in("ada")
    bomb = gzip.compress(bytes(50_000_000))
    fields = {"kind": "daily", "do": "check", "form_token": token_on(client, "/hand-in")}
    for name in ("a.csv.gz", "a.zip"):
        assert (
            "none of .csv, .parquet, .jsonl"
            in client.post("/hand-in", data=fields, files={"file": (name, bomb)}).text
        )
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        answer = client.post("/hand-in", data=fields, files={"file": (name, bomb)})
        assert (answer.status_code, "would not be accepted" in answer.text) == (422, True)
    packed = {"Content-Encoding": "gzip", "Content-Type": "application/x-www-form-urlencoded"}
    assert client.post("/sign-in", content=bomb, headers=packed).status_code == 403


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What our loggers write as JSON lines."""
    out, logger = io.StringIO(), logging.getLogger("smalltale")
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonLines())
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.INFO)
    yield out
    logger.removeHandler(handler)
    logger.setLevel(before)


def test_a_request_is_one_line_of_json_and_no_secret_stands_in_it(fair: Fair, lines: io.StringIO) -> None:
    person = fair.team("ada")
    code = people.invite_account(fair.store, "boss")
    client = fair.client()
    client.get(f"/join/{code}")
    client.post(
        "/sign-in",
        data={"form_token": token_on(client, "/sign-in"), "handle": "ada", "password": "my secret pass"},
    )
    key = people.make_token(fair.store, person, "laptop", ["read"])
    client.get("/api/v1/editions/first/hand-ins?word=hidden", headers={"Authorization": f"Bearer {key}"})
    said = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [(each["method"], each["path"], each["status"]) for each in said] == [
        ("GET", "/join/…", 200),
        ("GET", "/sign-in", 200),
        ("POST", "/sign-in", 401),
        ("GET", "/api/v1/editions/first/hand-ins", 200),
    ]
    assert all(each["milliseconds"] > 0 for each in said)
    for secret in (code, key, "secret", "hidden", client.cookies["smalltale"]):
        assert secret not in lines.getvalue()


def test_an_error_is_logged_with_its_traceback_and_without_values(fair: Fair, lines: io.StringIO) -> None:
    values = {"story": "".join(["a private", " story"])}
    try:
        with fair.store.write() as session:
            session.execute(text("INSERT INTO nowhere VALUES (:story)"), values)
    except DBAPIError:
        logging.getLogger("smalltale.test").exception("postgresql://user:hidden@host/name: it failed")
    line = json.loads(lines.getvalue())
    assert line["message"] == "postgresql://user:…@host/name: it failed"
    assert "Traceback" in line["error"]
    assert values["story"] not in lines.getvalue()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("see /join/abcDEF-123_x.", "see /join/…"),
        ("token smalltale_abcdefgh12345678 of ada", "token smalltale_… of ada"),
        ("smalltale_worker", "smalltale_worker"),
        ("it is there\nDETAIL:  Key (handle)=(ada) already exists.\nin x", "it is there\nDETAIL: …\nin x"),
        ("postgresql://me@host/name", "postgresql://me@host/name"),
    ],
)
def test_a_secret_is_known_by_its_form(text: str, kept: str) -> None:
    assert scrubbed(text) == kept


@pytest.mark.parametrize("name", ["smalltale.service", "smalltale-worker@.service"])
def test_a_systemd_units_command_is_one_that_we_know(name: str) -> None:
    unit = (DEPLOY / name).read_text(encoding="utf-8")
    command = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
    words = shlex.split(command.removeprefix("ExecStart="))
    assert words[0].endswith("/smalltale")
    assert CliRunner().invoke(build_app(), [*words[1:], "--help"]).exit_code == 0


def test_a_containers_command_is_one_that_we_know() -> None:
    said = (DEPLOY / "Containerfile").read_text(encoding="utf-8").splitlines()
    words = json.loads(next(line for line in said if line.startswith("CMD ")).removeprefix("CMD "))
    assert CliRunner().invoke(build_app(), [*words, "--help"]).exit_code == 0


@pytest.mark.all
def test_a_server_started_by_command_logs_json_and_ends_at_a_signal(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        "serve",
        "--demo",
        "--database",
        f"sqlite:///{tmp_path / 'a.db'}",
        "--port",
        str(port),
        "--log-json",
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "smalltale", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        for line in server.stdout:
            if line.startswith("serving"):
                break
        for _ in range(100):
            try:
                assert b" 200 " in spoken(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                break
            except ConnectionRefusedError:
                time.sleep(0.1)
        os.kill(server.pid, signal.SIGTERM)
        _, said = server.communicate(timeout=30)
    found = [json.loads(line) for line in said.splitlines()]
    assert {"request", "judge hand-in 1, scripted-1 (attempt 1)"} <= {each["message"] for each in found}
