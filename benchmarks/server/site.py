"""A running site for hackathon.py and hackathon_kills.py: server and worker as processes, a team's hand-in, the record's head.

In: a database that hackathon_event.py filled. Out: processes started by the command line, as an organiser starts them.
Beware: whoever starts one ends it.
"""

from __future__ import annotations

import csv
import http.client
import importlib.metadata
import io
import platform
import socket
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.server.sample_event import PROMPTS, token
from sqlalchemy import text
from sqlalchemy.orm import Session

from smalltale.files import git_commit
from smalltale.machine import usable_cores

RESULTS = Path(__file__).parents[1] / "results"
LOG = Path(tempfile.gettempdir()) / "smalltale-benchmark.log"
PACKAGES = ("smalltale", "fastapi", "starlette", "uvicorn", "jinja2", "sqlalchemy", "psycopg")


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def start_server(url: str, port: int) -> subprocess.Popen[bytes]:
    """`smalltale serve` without judging."""
    return start("serve", "--workers", "0", "--database", url, "--port", str(port))


def start_worker(url: str) -> subprocess.Popen[bytes]:
    """`smalltale worker`."""
    return start("worker", "--database", url)


def start(*command: str) -> subprocess.Popen[bytes]:
    """A smalltale process, heard in LOG."""
    with LOG.open("ab") as log:
        return subprocess.Popen([sys.executable, "-m", "smalltale", *command], stdout=log, stderr=log)


def wait_for(port: int) -> None:
    """Until the server answers."""
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"the server did not start; see {LOG}")


def csv_of(number: int) -> bytes:
    """A team's file."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["prompt", "completion"])
    writer.writerows(
        [prompt, f" they met {n} friends of team {number} and went home happy."]
        for prompt in PROMPTS
        for n in range(4)
    )
    return out.getvalue().encode()


def post_hand_in(connection: http.client.HTTPConnection, number: int) -> int:
    """Hand in for a team. Returns the status."""
    fields = {
        "weight_class": "large",
        "counted_parameters": "20000000",
        "model_hash": "a" * 64,
        "data": "TinyStories",
        "from_scratch": "true",
    }
    mark = "frame-of-the-form"
    parts = [f'name="{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields.items()]
    parts.append(
        b'name="file"; filename="a.csv"\r\nContent-Type: text/csv\r\n\r\n' + csv_of(number) + b"\r\n"
    )
    body = b"".join(f"--{mark}\r\nContent-Disposition: form-data; ".encode() + part for part in parts)
    headers = {
        "Authorization": f"Bearer {token(number)}",
        "Content-Type": f"multipart/form-data; boundary={mark}",
    }
    connection.request(
        "POST", "/api/v1/editions/load/hand-ins/daily", body + f"--{mark}--\r\n".encode(), headers
    )
    answer = connection.getresponse()
    answer.read()
    return answer.status


def measured_at() -> dict[str, object]:
    """Where, when and with what."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "machine": {
            "processor": names[0].partition(": ")[2] if names else platform.processor(),
            "cores": usable_cores(),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "commit": git_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def database_version(session: Session) -> str:
    """What keeps the rows."""
    if session.get_bind().dialect.name == "sqlite":
        return f"SQLite {session.scalar(text('SELECT sqlite_version()'))}"
    return f"PostgreSQL {session.scalar(text('SHOW server_version'))}"
