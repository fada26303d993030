"""An event to the Hugging Face Hub and back, against a Hub of our own on loopback."""

from __future__ import annotations

import base64
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

from .conftest import PROMPTS, TOML, Fair, make_fair, stories

COMMIT = "c" * 40


class Hub(BaseHTTPRequestHandler):
    """Takes a commit to a data set as the Hub does, and gives its files back."""

    files: dict[str, bytes]

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        here = f"http://{self.headers['Host']}/datasets/me/fair"
        if self.path.endswith("/preupload/main"):
            told = [
                {**each, "uploadMode": "regular", "shouldIgnore": False} for each in json.loads(body)["files"]
            ]
            self.say({"files": told})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                part = json.loads(line)
                if part["key"] == "file":
                    self.files[part["value"]["path"]] = base64.b64decode(part["value"]["content"])
            self.say({"commitUrl": f"{here}/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.say({"url": here, "name": "me/fair", "id": "1"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        file = re.fullmatch(r"/datasets/me/fair/resolve/[^/]+/(.+)", self.path)
        if file and file[1] in self.files:
            content = self.files[file[1]]
            self.say(content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', **{"X-Repo-Commit": COMMIT})
        elif self.path.startswith("/api/datasets/me/fair"):
            tree = [
                {"type": "file", "path": name, "oid": "0" * 40, "size": len(content)}
                for name, content in self.files.items()
            ]
            about = {"id": "me/fair", "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.files]}
            self.say(tree if "/tree/" in self.path else {**about, "tags": [], "private": False})
        else:
            self.say({"error": "not found"}, status=404, **{"X-Error-Code": "RepoNotFound"})

    def say(self, answer: object, status: int = 200, **headers: str) -> None:
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        if not isinstance(answer, bytes):
            self.send_header("Content-Type", "application/json")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@pytest.fixture
def hub() -> Iterator[tuple[str, dict[str, bytes]]]:
    handler = type("ThisHub", (Hub,), {"files": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler.files
    server.shutdown()
    thread.join()
    server.server_close()


def edition(home: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "smalltale", "edition", *words],
        env={**kept, **quiet, "HF_HOME": str(home), **more},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def judged(tmp_path: Path) -> Fair:
    """A hackathon with a judged hand-in, closed."""
    fair = make_fair(f"sqlite:///{tmp_path / 'fair.db'}")
    fair.hand_in(fair.team("ada", name="Two Foxes"), content=stories())
    fair.judge()
    fair.store.close()
    return fair


@pytest.mark.all
def test_an_event_goes_to_the_hub_and_comes_back_from_it(
    judged: Fair, hub: tuple[str, dict[str, bytes]], tmp_path: Path
) -> None:
    endpoint, files = hub
    more = {"HF_ENDPOINT": endpoint, "HF_TOKEN": "hf_secret"}
    out, database = str(tmp_path / "out"), f"sqlite:///{tmp_path / 'fair.db'}"
    sent = edition(tmp_path, "export", "first", out, "--database", database, "--hub", "me/fair", **more)
    assert sent.returncode == 0, sent.stderr[-1500:]
    assert f"sent to {endpoint}/datasets/me/fair" in sent.stdout
    name = "ada/Two-Foxes_2026-03-03_12-00-00.csv"
    assert set(files) == {"metadata.json", "meta.json", f"submissions/{name}", f"scores/{name}"}
    rules = tmp_path / "first.toml"
    written = [json.dumps({"prompt": each}) for each in PROMPTS]
    (tmp_path / "daily.jsonl").write_text("\n".join(written))
    rules.write_text(TOML + 'judges = ["scripted-a"]\n[[prompt_set]]\nkind = "daily"\nfile = "daily.jsonl"\n')
    other = f"sqlite:///{tmp_path / 'other.db'}"
    came = edition(tmp_path, "import", str(rules), "hf://datasets/me/fair", "--database", other, **more)
    assert came.returncode == 0, came.stderr[-1500:]
    assert "loaded 1 hand-ins, left out 0" in came.stdout
    missing = edition(tmp_path, "import", str(rules), "hf://datasets/me/none", "--database", other, **more)
    assert missing.returncode == 2
    assert "the Hub refuses me/none" in missing.stderr


@pytest.mark.all
def test_without_a_token_nothing_is_sent(judged: Fair, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'fair.db'}"
    refused = edition(
        tmp_path, "export", "first", str(tmp_path / "out"), "--database", database, "--hub", "me/fair"
    )
    assert refused.returncode == 2
    assert "set HF_TOKEN" in refused.stderr
