"""A running site for load.py and kills.py: server and worker processes, and a team's submission.

Input: a database that sample_event.py filled. Processes are started by the command line, as an organiser starts them; the caller
stops them.
"""

from __future__ import annotations

import csv
import http.client
import io
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.orm import Session

from benchmarks.server.sample_event import PROMPTS, token

LOG = Path(tempfile.gettempdir()) / "smalltale-benchmark.log"
VERSIONS_OF = ("smalltale", "fastapi", "starlette", "uvicorn", "jinja2", "sqlalchemy", "psycopg")


def free_port() -> int:
    """A free TCP port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def start_server(url: str, port: int) -> subprocess.Popen[bytes]:
    """Start `smalltale serve` without judging."""
    return start("serve", "--workers", "0", "--database", url, "--port", str(port))


def start_worker(url: str) -> subprocess.Popen[bytes]:
    """Start `smalltale worker`."""
    return start("worker", "--database", url)


def start(*command: str) -> subprocess.Popen[bytes]:
    """Start a smalltale process; its output goes to LOG."""
    with LOG.open("ab") as log:
        return subprocess.Popen([sys.executable, "-m", "smalltale", *command], stdout=log, stderr=log)


def wait_for(port: int) -> None:
    """Wait until the server accepts connections."""
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"the server did not start; see {LOG}")


def make_submission(number: int) -> bytes:
    """The CSV file of a team."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["prompt", "completion"])
    writer.writerows(
        [prompt, f" they met {n} friends of team {number} and went home happy."]
        for prompt in PROMPTS
        for n in range(4)
    )
    return out.getvalue().encode()


def post_submission(connection: http.client.HTTPConnection, number: int) -> int:
    """Submit for a team. Returns the HTTP status."""
    fields = {
        "weight_class": "large",
        "counted_parameters": "20000000",
        "model_hash": "a" * 64,
        "data": "TinyStories",
        "from_scratch": "true",
    }
    boundary = "form-boundary"
    parts = [f'name="{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields.items()]
    parts.append(
        b'name="file"; filename="a.csv"\r\nContent-Type: text/csv\r\n\r\n' + make_submission(number) + b"\r\n"
    )
    body = b"".join(f"--{boundary}\r\nContent-Disposition: form-data; ".encode() + part for part in parts)
    headers = {
        "Authorization": f"Bearer {token(number)}",
        "Content-Type": f"multipart/form-data; boundary={boundary}",
    }
    connection.request(
        "POST", "/api/v1/editions/load/hand-ins/daily", body + f"--{boundary}--\r\n".encode(), headers
    )
    response = connection.getresponse()
    response.read()
    return response.status


def database_version(session: Session) -> str:
    """Name and version of the database."""
    if session.get_bind().dialect.name == "sqlite":
        return f"SQLite {session.scalar(text('SELECT sqlite_version()'))}"
    return f"PostgreSQL {session.scalar(text('SHOW server_version'))}"
