"""Export of an edition to the Hugging Face Hub and import from it, against a Hub server of our own on loopback."""

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

from .conftest import EDITION_TOML, PROMPTS, Hackathon, create_hackathon, submission_csv

COMMIT = "c" * 40


class HubServer(BaseHTTPRequestHandler):
    """Accepts a commit to a dataset repository as the Hub does, and serves its files."""

    files: dict[str, bytes]

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = f"http://{self.headers['Host']}/datasets/me/event"
        if self.path.endswith("/preupload/main"):
            files = [
                {**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]
            ]
            self.respond({"files": files})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                part = json.loads(line)
                if part["key"] == "file":
                    self.files[part["value"]["path"]] = base64.b64decode(part["value"]["content"])
            self.respond({"commitUrl": f"{url}/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.respond({"url": url, "name": "me/event", "id": "1"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        file = re.fullmatch(r"/datasets/me/event/resolve/[^/]+/(.+)", self.path)
        if file and file[1] in self.files:
            content = self.files[file[1]]
            self.respond(
                content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', **{"X-Repo-Commit": COMMIT}
            )
        elif self.path.startswith("/api/datasets/me/event"):
            tree = [
                {"type": "file", "path": name, "oid": "0" * 40, "size": len(content)}
                for name, content in self.files.items()
            ]
            info = {"id": "me/event", "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.files]}
            self.respond(tree if "/tree/" in self.path else {**info, "tags": [], "private": False})
        else:
            self.respond({"error": "not found"}, status=404, **{"X-Error-Code": "RepoNotFound"})

    def respond(self, body: object, status: int = 200, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        if not isinstance(body, bytes):
            self.send_header("Content-Type", "application/json")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@pytest.fixture
def hub() -> Iterator[tuple[str, dict[str, bytes]]]:
    handler = type("TestHubServer", (HubServer,), {"files": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler.files
    server.shutdown()
    thread.join()
    server.server_close()


def run_edition(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "smalltale", "edition", *arguments],
        env={**environment, **quiet, "HF_HOME": str(home), **variables},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def judged(tmp_path: Path) -> Hackathon:
    """A hackathon with a judged submission, its database closed."""
    hackathon = create_hackathon(f"sqlite:///{tmp_path / 'hackathon.db'}")
    hackathon.submit(hackathon.add_team("ada", name="Two Foxes"), content=submission_csv())
    hackathon.run_worker()
    hackathon.database.close()
    return hackathon


@pytest.mark.all
def test_an_edition_is_exported_to_the_hub_and_imported_from_it(
    judged: Hackathon, hub: tuple[str, dict[str, bytes]], tmp_path: Path
) -> None:
    endpoint, files = hub
    hub_variables = {"HF_ENDPOINT": endpoint, "HF_TOKEN": "hf_secret"}
    out, database = str(tmp_path / "out"), f"sqlite:///{tmp_path / 'hackathon.db'}"
    sent = run_edition(
        tmp_path, "export", "first", out, "--database", database, "--hub", "me/event", **hub_variables
    )
    assert sent.returncode == 0, sent.stderr[-1500:]
    assert f"uploaded to {endpoint}/datasets/me/event" in sent.stdout
    name = "ada/Two-Foxes_2026-03-03_12-00-00.csv"
    assert set(files) == {"metadata.json", "meta.json", f"submissions/{name}", f"scores/{name}"}
    rules = tmp_path / "first.toml"
    prompts = [json.dumps({"prompt": prompt}) for prompt in PROMPTS]
    (tmp_path / "daily.jsonl").write_text("\n".join(prompts))
    rules.write_text(
        EDITION_TOML + 'judges = ["scripted-a"]\n[[prompt_set]]\nkind = "daily"\nfile = "daily.jsonl"\n'
    )
    other_database = f"sqlite:///{tmp_path / 'other.db'}"
    imported = run_edition(
        tmp_path,
        "import",
        str(rules),
        "hf://datasets/me/event",
        "--database",
        other_database,
        **hub_variables,
    )
    assert imported.returncode == 0, imported.stderr[-1500:]
    assert "imported 1 submissions, skipped 0" in imported.stdout
    missing = run_edition(
        tmp_path, "import", str(rules), "hf://datasets/me/none", "--database", other_database, **hub_variables
    )
    assert missing.returncode == 2
    assert "the Hub refuses me/none" in missing.stderr


@pytest.mark.all
def test_without_a_token_nothing_is_uploaded(judged: Hackathon, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'hackathon.db'}"
    refused = run_edition(
        tmp_path, "export", "first", str(tmp_path / "out"), "--database", database, "--hub", "me/event"
    )
    assert refused.returncode == 2
    assert "set HF_TOKEN" in refused.stderr
