"""The contestant's side of the API: keep a token, hand in a file, send a model. Needs nothing beyond Python.

In: a server's address, a file. Out: what the server answered.
Beware: the token file is readable by its owner alone, and a token is sent to the server it was made for and no other.
"""

from __future__ import annotations

import json
import os
import secrets
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from smalltale.errors import SmalltaleError
from smalltale.files import atomic_file, read_json, translate_os_errors
from smalltale.server.verification.sandbox import MODEL_FILES, check_model_folder

SECONDS = 120
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def token_file() -> Path:
    """Where tokens are kept."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "smalltale" / "tokens.json"


def server_url(url: str) -> str:
    """A server's address, tidied. Raises SmalltaleError for one that would send a token in the clear."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise SmalltaleError(f"{url!r} is no server's address; give one like https://hackathon.example.org")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise SmalltaleError(f"{url} would send your token unencrypted; use https")
    return f"{parts.scheme}://{parts.netloc}"


def save_token(url: str, token: str) -> None:
    """Keep a token for a server."""
    path = token_file()
    kept = read_json(path) if path.exists() else {}
    with atomic_file(path) as temporary:
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps({**kept, server_url(url): token}), encoding="utf-8")


def load_token(url: str) -> str:
    """The token kept for a server. Raises SmalltaleError where there is none."""
    if token := os.environ.get("SMALLTALE_TOKEN"):
        return token
    kept = read_json(token_file()) if token_file().exists() else {}
    if server_url(url) not in kept:
        raise SmalltaleError(
            f"there is no token for {server_url(url)}; make one on its account page, then run: smalltale login {server_url(url)}"
        )
    return str(kept[server_url(url)])


def call_api(
    url: str, path: str, *, token: str | None = None, form: tuple[dict[str, str], Path] | None = None
) -> Any:
    """One call of the API. Raises SmalltaleError with everything the server found."""
    headers, body = {"Accept": "application/json"}, None
    if token:
        headers["Authorization"] = f"Bearer {token}"
    if form:
        mark = secrets.token_hex(16)
        headers["Content-Type"] = f"multipart/form-data; boundary={mark}"
        body = multipart(mark, *form)
    request = urllib.request.Request(f"{server_url(url)}/api/v1{path}", data=body, headers=headers)
    return answered(request, url)


def send_model(url: str, number: int, folder: Path, token: str) -> Any:
    """Send a checkpoint folder's model with a hand-in. Raises SmalltaleError with everything the server found."""
    check_model_folder(folder)
    before = call_api(url, f"/hand-ins/{number}", token=token)["model"]
    if not before["wanted"]:
        raise SmalltaleError(
            f"hand-in {number} needs no model now (it is {before['state'] or 'not asked for'}); "
            "models are sent with final hand-ins, and where an organiser asks for one"
        )
    mark = secrets.token_hex(16)
    parts: list[bytes | Path] = []
    for name in MODEL_FILES:
        if (folder / name).is_file():
            parts += [part_head(mark, "files", name), folder / name, b"\r\n"]
    parts.append(f"--{mark}--\r\n".encode())
    size = sum(len(each) if isinstance(each, bytes) else each.stat().st_size for each in parts)
    headers = {
        "Accept": "application/json",
        "Authorization": f"Bearer {token}",
        "Content-Type": f"multipart/form-data; boundary={mark}",
        "Content-Length": str(size),
    }
    where = f"{server_url(url)}/api/v1/hand-ins/{number}/model"
    return answered(urllib.request.Request(where, data=in_pieces(parts), headers=headers, method="POST"), url)


def in_pieces(parts: Sequence[bytes | Path]) -> Iterator[bytes]:
    """A large body, never whole in memory."""
    for each in parts:
        if isinstance(each, bytes):
            yield each
            continue
        with translate_os_errors(each), each.open("rb") as opened:
            while piece := opened.read(1 << 20):
                yield piece


def answered(request: urllib.request.Request, url: str) -> Any:
    """What a server answers. Raises SmalltaleError with everything it found."""
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            raise SmalltaleError(told(error.read(), error.code)) from error
    except (urllib.error.URLError, TimeoutError, json.JSONDecodeError) as error:
        reason = getattr(error, "reason", error)
        raise SmalltaleError(
            f"{server_url(url)} does not answer as expected ({reason}); check the address and try again"
        ) from error


def told(body: bytes, status: int) -> str:
    """A problem+json answer as one text."""
    try:
        problem = json.loads(body)
        lines = [
            f"{each['field']}: {each['found']}{'; ' + each['mend'] if each.get('mend') else ''}"
            for each in problem["errors"]
        ]
        return "\n  ".join([str(problem["title"]), *lines])
    except (ValueError, KeyError, TypeError):
        return f"the server answered with status {status}; try again later"


def multipart(mark: str, fields: dict[str, str], path: Path) -> bytes:
    """A form with one file."""
    with translate_os_errors(path):
        content = path.read_bytes()
    name = "".join(char if char.isalnum() or char in "._-" else "_" for char in path.name)
    parts = [
        f'--{mark}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    ]
    return b"".join([*parts, part_head(mark, "file", name), content, f"\r\n--{mark}--\r\n".encode()])


def part_head(mark: str, field: str, name: str) -> bytes:
    """What stands before a file in a form."""
    return (
        f'--{mark}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()


def read_declaration(path: Path) -> dict[str, str]:
    """The declaration in the submission.json beside a hand-in, as the API's fields."""
    beside = path.with_name("submission.json")
    found = read_json(beside) if beside.exists() else {}
    data = found.get("data", found.get("data_sources", ""))
    sampling = found.get("sampling", found.get("generation", ""))
    plain = {
        "weight_class": found.get("weight_class"),
        "counted_parameters": found.get("counted_parameters"),
        "model_hash": found.get("model_hash"),
        "data": ", ".join(map(str, data)) if isinstance(data, list) else data,
        "sampling": sampling if isinstance(sampling, str) else json.dumps(sampling),
        "from_scratch": "true" if found.get("from_scratch", found.get("trained_from_scratch")) else "",
    }
    return {key: str(value) for key, value in plain.items() if value not in (None, "")}
