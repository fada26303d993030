"""The Hub's client against a server on loopback that answers as the Hub does."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from smalltale.corpus.fable import stories
from smalltale.files import END_OF_STORY

COMMIT = "c" * 40
TEXT = f"\n{END_OF_STORY}\n".join(stories(11, 400)).encode()
FILES = {
    ("roneneldan/TinyStories", "TinyStories-train.txt"): TEXT,
    ("roneneldan/TinyStories", "data/train-00000-of-00002.parquet"): b"first",
    ("roneneldan/TinyStories", "data/train-00001-of-00002.parquet"): b"second",
    ("roneneldan/TinyStories", "README.md"): b"# readme",
    ("roneneldan/TinyStories", "large.txt"): TEXT * 90,
}


class Hub(BaseHTTPRequestHandler):
    """Repository listings and files with ranges; the first whole download breaks off in the middle."""

    asked: list[str]
    breaks: int
    needs_token: bool

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        kind = type(self)
        kind.asked.append(
            f"{self.command} {self.path} {self.headers.get('Range', '')} {self.headers.get('Authorization', '')}".strip()
        )
        if kind.needs_token and self.headers.get("Authorization") != "Bearer hf_secret":
            self.say(401, b'{"error": "token needed"}', body, {"X-Error-Code": "GatedRepo"})
            return
        listing = re.fullmatch(
            r"/api/datasets/([^/]+/[^/?]+)(?:/revision/[^/?]+|/tree/[^?]*)?(?:\?.*)?", self.path
        )
        file = re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/[^/]+/(.+)", self.path)
        if listing:
            names = [name for repository, name in FILES if repository == listing[1]]
            tree = [
                {"type": "file", "path": name, "oid": "0" * 40, "size": len(FILES[listing[1], name])}
                for name in names
            ]
            info = {
                "id": listing[1],
                "sha": COMMIT,
                "siblings": [{"rfilename": name} for name in names],
                "tags": [],
                "private": False,
            }
            self.say(
                200,
                json.dumps(tree if "/tree/" in self.path else info).encode(),
                body,
                {"Content-Type": "application/json"},
            )
        elif file and (file[1], file[2]) in FILES:
            self.send_file(FILES[file[1], file[2]], body)
        else:
            self.say(
                404,
                b'{"error": "not found"}',
                body,
                {"X-Error-Code": "EntryNotFound" if file else "RepoNotFound"},
            )

    def say(self, status: int, content: bytes, body: bool, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def send_file(self, content: bytes, body: bool) -> None:
        start = (
            int(re.search(r"bytes=(\d+)-", self.headers["Range"])[1])
            if "Range" in self.headers and body
            else 0
        )  # type: ignore[index]
        part = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if not body:
            return
        if type(self).breaks and len(part) > 1000:
            type(self).breaks -= 1
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(part)


@pytest.fixture
def hub() -> Iterator[tuple[str, type[Hub]]]:
    handler = type("ThisHub", (Hub,), {"asked": [], "breaks": 0, "needs_token": False})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(endpoint: str, home: Path, pattern: str, **more: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; from smalltale.corpus.hub import fetch; from smalltale.errors import SmalltaleError\n"
        "try: print(*fetch('roneneldan/TinyStories', sys.argv[1]), sep='\\n')\n"
        "except SmalltaleError as error: sys.exit(f'explained: {error}')"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    quiet = {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    environment = {**kept, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), **quiet, **more}
    return subprocess.run(
        [sys.executable, "-c", code, pattern], env=environment, capture_output=True, text=True, timeout=60
    )


def test_a_file_is_fetched_once_and_then_lies_in_the_cache(
    hub: tuple[str, type[Hub]], tmp_path: Path
) -> None:
    endpoint, server = hub
    first = fetch(endpoint, tmp_path, "TinyStories-train.txt")
    assert first.returncode == 0, first.stderr
    path = Path(first.stdout.strip())
    assert path.read_bytes() == TEXT
    assert tmp_path in path.parents
    offline = fetch(endpoint, tmp_path, "TinyStories-train.txt", HF_HUB_OFFLINE="1")
    assert offline.stdout == first.stdout
    assert sum(line.startswith("GET /datasets") for line in server.asked) == 1


def test_a_download_that_breaks_off_goes_on_where_it_stopped(
    hub: tuple[str, type[Hub]], tmp_path: Path
) -> None:
    endpoint, server = hub
    server.breaks = 1
    for _ in range(2):  # the client may go on by itself or leave its part for the next call
        again = fetch(endpoint, tmp_path, "large.txt")
        if again.returncode == 0:
            break
        assert "goes on from there" in again.stderr
    assert Path(again.stdout.strip()).read_bytes() == TEXT * 90
    assert any(int(found[1]) > 0 for line in server.asked if (found := re.search(r"bytes=(\d+)-", line)))


def test_a_pattern_names_every_file_that_fits(hub: tuple[str, type[Hub]], tmp_path: Path) -> None:
    made = fetch(hub[0], tmp_path, "*.jsonl|data/train-*.parquet|*.txt")
    assert made.returncode == 0, made.stderr
    assert [Path(line).read_bytes() for line in made.stdout.splitlines()] == [b"first", b"second"]


def test_the_token_is_sent_and_its_lack_is_explained(hub: tuple[str, type[Hub]], tmp_path: Path) -> None:
    endpoint, server = hub
    server.needs_token = True
    without = fetch(endpoint, tmp_path, "README.md")
    assert "explained:" in without.stderr
    assert "HF_TOKEN" in without.stderr
    assert fetch(endpoint, tmp_path, "README.md", HF_TOKEN="hf_secret").returncode == 0


@pytest.mark.parametrize(
    ("pattern", "more", "message"),
    [
        ("none.txt", {}, "check the name"),
        ("*.zip", {}, "holds no"),
        ("README.md", {"HF_HUB_OFFLINE": "1"}, "not in the cache|neither fetched nor found"),
        pytest.param(  # the client tries again for 20 seconds
            "README.md",
            {"HF_ENDPOINT": "http://127.0.0.1:9"},
            "neither fetched nor found|broke off",
            marks=pytest.mark.all,
        ),
    ],
)
def test_what_cannot_be_fetched_is_explained(
    hub: tuple[str, type[Hub]], tmp_path: Path, pattern: str, more: dict[str, str], message: str
) -> None:
    made = fetch(hub[0], tmp_path, pattern, **more)
    assert made.returncode == 1
    assert re.search(f"explained: .*(?:{message})", made.stderr), made.stderr[-600:]
