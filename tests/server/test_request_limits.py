"""Slow, large and compressed requests are refused; logs are JSON without secrets; deployment files name valid commands."""

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
from smalltale.server.web.middleware.json_logs import JsonFormatter, redact_secrets

from .conftest import Hackathon, read_form_token

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy"


@pytest.fixture
def port(hackathon: Hackathon) -> Iterator[int]:
    """The port of a running server."""
    server = uvicorn.Server(
        uvicorn.Config(create_app(hackathon.database), port=0, log_level="critical", ws="none")
    )
    running = threading.Thread(target=server.run)
    running.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    running.join()


def send_parts(port: int, *parts: bytes, wait: float = 0.0) -> bytes:
    """A server's response to bytes that arrive in parts."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        for part in parts:
            connection.sendall(part)
            if select.select([connection], [], [], wait)[0]:
                break
        response = b""
        while chunk := connection.recv(65_536):
            response += chunk
            if b"\r\n\r\n" in response and b"connection: close" not in response.lower():
                break
        return response


HEAD = b"POST /sign-in HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\n"


def test_a_stalled_upload_is_refused_and_does_not_block_the_server(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CHUNK_SECONDS", 0.3)
    began = time.monotonic()
    waiting = [threading.Thread(target=send_parts, args=(port, HEAD, b"a")) for _ in range(20)]
    for thread in waiting:
        thread.start()
    assert b" 200 " in send_parts(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    response = send_parts(port, HEAD, b"a")
    assert b" 408 " in response
    assert b"the upload was too slow" in response
    for thread in waiting:
        thread.join()
    assert time.monotonic() - began < 5


def test_a_trickling_upload_is_refused_after_the_time_limit(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "UPLOAD_SECONDS", 0.5)
    response = send_parts(port, HEAD, *[b"a"] * 9, wait=0.1)
    assert b" 408 " in response
    assert b"complete within 0.5 seconds" in response


def test_a_body_without_a_length_is_cut_off_at_the_limit(hackathon: Hackathon) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield bytes(1 << 20)

    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert hackathon.client().post("/sign-in", content=endless(), headers=form).status_code == 413


def test_compressed_uploads_are_not_decompressed(hackathon: Hackathon) -> None:
    hackathon.add_team("ada")
    client = hackathon.sign_in("ada")
    bomb = gzip.compress(bytes(50_000_000))
    fields = {"kind": "daily", "do": "check", "form_token": read_form_token(client, "/submit")}
    for name in ("a.csv.gz", "a.zip"):
        assert (
            "use .csv, .parquet or .jsonl"
            in client.post("/submit", data=fields, files={"file": (name, bomb)}).text
        )
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        response = client.post("/submit", data=fields, files={"file": (name, bomb)})
        assert (response.status_code, "would not be accepted" in response.text) == (422, True)
    packed = {"Content-Encoding": "gzip", "Content-Type": "application/x-www-form-urlencoded"}
    assert client.post("/sign-in", content=bomb, headers=packed).status_code == 403


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """The JSON lines that our loggers write."""
    out, logger = io.StringIO(), logging.getLogger("smalltale")
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter())
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.INFO)
    yield out
    logger.removeHandler(handler)
    logger.setLevel(before)


def test_a_request_is_logged_as_one_line_of_json_without_secrets(
    hackathon: Hackathon, lines: io.StringIO
) -> None:
    person = hackathon.add_team("ada")
    code = people.invite_account(hackathon.database, "boss")
    client = hackathon.client()
    client.get(f"/join/{code}")
    client.post(
        "/sign-in",
        data={
            "form_token": read_form_token(client, "/sign-in"),
            "handle": "ada",
            "password": "my secret pass",
        },
    )
    key = people.create_token(hackathon.database, person, "laptop", ["read"])
    client.get("/api/v1/editions/first/submissions?word=hidden", headers={"Authorization": f"Bearer {key}"})
    records = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [(record["method"], record["path"], record["status"]) for record in records] == [
        ("GET", "/join/…", 200),
        ("GET", "/sign-in", 200),
        ("POST", "/sign-in", 401),
        ("GET", "/api/v1/editions/first/submissions", 200),
    ]
    assert all(record["milliseconds"] > 0 for record in records)
    for secret in (code, key, "secret", "hidden", client.cookies["smalltale"]):
        assert secret not in lines.getvalue()


def test_an_error_is_logged_with_its_traceback_and_without_values(
    hackathon: Hackathon, lines: io.StringIO
) -> None:
    values = {"story": "".join(["a private", " story"])}
    try:
        with hackathon.database.write() as session:
            session.execute(text("INSERT INTO nowhere VALUES (:story)"), values)
    except DBAPIError:
        logging.getLogger("smalltale.test").exception("postgresql://user:hidden@host/name: it failed")
    line = json.loads(lines.getvalue())
    assert line["message"] == "postgresql://user:…@host/name: it failed"
    assert "Traceback" in line["error"]
    assert values["story"] not in lines.getvalue()


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("see /join/abcDEF-123_x.", "see /join/…"),
        ("token smalltale_abcdefgh12345678 of ada", "token smalltale_… of ada"),
        ("smalltale_worker", "smalltale_worker"),
        ("it is there\nDETAIL:  Key (handle)=(ada) already exists.\nin x", "it is there\nDETAIL: …\nin x"),
        ("postgresql://me@host/name", "postgresql://me@host/name"),
    ],
)
def test_secrets_are_redacted_by_their_form(text: str, redacted: str) -> None:
    assert redact_secrets(text) == redacted


@pytest.mark.parametrize("name", ["smalltale.service", "smalltale-worker@.service"])
def test_the_command_of_a_systemd_unit_exists(name: str) -> None:
    unit = (DEPLOY / name).read_text(encoding="utf-8")
    command = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
    words = shlex.split(command.removeprefix("ExecStart="))
    assert words[0].endswith("/smalltale")
    assert CliRunner().invoke(build_app(), [*words[1:], "--help"]).exit_code == 0


def test_the_command_of_the_container_exists() -> None:
    instructions = (DEPLOY / "Containerfile").read_text(encoding="utf-8").splitlines()
    words = json.loads(next(line for line in instructions if line.startswith("CMD ")).removeprefix("CMD "))
    assert CliRunner().invoke(build_app(), [*words, "--help"]).exit_code == 0


@pytest.mark.all
def test_a_server_started_by_command_logs_json_and_stops_at_sigterm(tmp_path: Path) -> None:
    with socket.socket() as free_socket:
        free_socket.bind(("127.0.0.1", 0))
        port = free_socket.getsockname()[1]
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
                assert b" 200 " in send_parts(port, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                break
            except ConnectionRefusedError:
                time.sleep(0.1)
        os.kill(server.pid, signal.SIGTERM)
        _, log = server.communicate(timeout=30)
    records = [json.loads(line) for line in log.splitlines()]
    assert {"request", "judge submission 1, scripted-1 (attempt 1)"} <= {
        record["message"] for record in records
    }
