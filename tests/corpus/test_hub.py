"""Downloads with the Hub's client from a loopback server that imitates the Hub."""

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

from smalltale.corpus.fable.generator import generate_stories
from smalltale.files import END_OF_STORY

COMMIT = "c" * 40
TEXT = f"\n{END_OF_STORY}\n".join(generate_stories(11, 400)).encode()
FILES = {
    ("roneneldan/TinyStories", "TinyStories-train.txt"): TEXT,
    ("roneneldan/TinyStories", "data/train-00000-of-00002.parquet"): b"first",
    ("roneneldan/TinyStories", "data/train-00001-of-00002.parquet"): b"second",
    ("roneneldan/TinyStories", "README.md"): b"# readme",
    ("roneneldan/TinyStories", "large.txt"): TEXT * 90,
}


class Hub(BaseHTTPRequestHandler):
    """Serves repository listings and files with ranges; interrupts the first `interruptions` downloads halfway."""

    requests: list[str]
    interruptions: int
    needs_token: bool

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        handler = type(self)
        handler.requests.append(
            f"{self.command} {self.path} {self.headers.get('Range', '')} {self.headers.get('Authorization', '')}".strip()
        )
        if handler.needs_token and self.headers.get("Authorization") != "Bearer hf_secret":
            self.send(401, b'{"error": "token needed"}', body, {"X-Error-Code": "GatedRepo"})
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
            self.send(
                200,
                json.dumps(tree if "/tree/" in self.path else info).encode(),
                body,
                {"Content-Type": "application/json"},
            )
        elif file and (file[1], file[2]) in FILES:
            self.send_file(FILES[file[1], file[2]], body)
        else:
            self.send(
                404,
                b'{"error": "not found"}',
                body,
                {"X-Error-Code": "EntryNotFound" if file else "RepoNotFound"},
            )

    def send(self, status: int, content: bytes, body: bool, headers: dict[str, str]) -> None:
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
        if type(self).interruptions and len(part) > 1000:
            type(self).interruptions -= 1
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(part)


@pytest.fixture
def hub() -> Iterator[tuple[str, type[Hub]]]:
    handler = type("ThisHub", (Hub,), {"requests": [], "interruptions": 0, "needs_token": False})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()
    thread.join()
    server.server_close()


def download(endpoint: str, home: Path, pattern: str, **variables: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys; from smalltale.corpus.sources.hub import download_files; from smalltale.errors import SmalltaleError\n"
        "try: print(*download_files('roneneldan/TinyStories', sys.argv[1]), sep='\\n')\n"
        "except SmalltaleError as error: sys.exit(f'SmalltaleError: {error}')"
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    quiet = {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    environment = {**inherited, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), **quiet, **variables}
    return subprocess.run(
        [sys.executable, "-c", code, pattern], env=environment, capture_output=True, text=True, timeout=60
    )


def test_a_file_is_downloaded_once_and_then_read_from_the_cache(
    hub: tuple[str, type[Hub]], tmp_path: Path
) -> None:
    endpoint, server = hub
    first = download(endpoint, tmp_path, "TinyStories-train.txt")
    assert first.returncode == 0, first.stderr
    path = Path(first.stdout.strip())
    assert path.read_bytes() == TEXT
    assert tmp_path in path.parents
    offline = download(endpoint, tmp_path, "TinyStories-train.txt", HF_HUB_OFFLINE="1")
    assert offline.stdout == first.stdout
    assert sum(line.startswith("GET /datasets") for line in server.requests) == 1


def test_an_interrupted_download_resumes(hub: tuple[str, type[Hub]], tmp_path: Path) -> None:
    endpoint, server = hub
    server.interruptions = 1
    for _ in range(2):  # the client may resume by itself or at the next call
        result = download(endpoint, tmp_path, "large.txt")
        if result.returncode == 0:
            break
        assert "it resumes" in result.stderr
    assert Path(result.stdout.strip()).read_bytes() == TEXT * 90
    assert any(int(match[1]) > 0 for line in server.requests if (match := re.search(r"bytes=(\d+)-", line)))


def test_a_pattern_downloads_every_file_that_matches(hub: tuple[str, type[Hub]], tmp_path: Path) -> None:
    result = download(hub[0], tmp_path, "*.jsonl|data/train-*.parquet|*.txt")
    assert result.returncode == 0, result.stderr
    assert [Path(line).read_bytes() for line in result.stdout.splitlines()] == [b"first", b"second"]


def test_the_token_is_sent_and_a_missing_one_is_an_error_with_advice(
    hub: tuple[str, type[Hub]], tmp_path: Path
) -> None:
    endpoint, server = hub
    server.needs_token = True
    rejected = download(endpoint, tmp_path, "README.md")
    assert "SmalltaleError:" in rejected.stderr
    assert "HF_TOKEN" in rejected.stderr
    assert download(endpoint, tmp_path, "README.md", HF_TOKEN="hf_secret").returncode == 0


@pytest.mark.parametrize(
    ("pattern", "variables", "message"),
    [
        ("none.txt", {}, "check the name"),
        ("*.zip", {}, "has no"),
        ("README.md", {"HF_HUB_OFFLINE": "1"}, "not in the cache"),
        pytest.param(  # the client tries again for 20 seconds
            "README.md",
            {"HF_ENDPOINT": "http://127.0.0.1:9"},
            "cannot be downloaded|broke off",
            marks=pytest.mark.all,
        ),
    ],
)
def test_a_failed_download_is_an_error_with_advice(
    hub: tuple[str, type[Hub]], tmp_path: Path, pattern: str, variables: dict[str, str], message: str
) -> None:
    result = download(hub[0], tmp_path, pattern, **variables)
    assert result.returncode == 1
    assert re.search(f"SmalltaleError: .*(?:{message})", result.stderr), result.stderr[-600:]
