"""Client of the API for contestants: saves a token, submits a file, uploads a model. Uses the standard library only.

Input: a server's address, a file. Output: the server's answer.
Note: only its owner can read the token file, and a token is sent only to the server for which it was saved.
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
from smalltale.server.verification.model_checks import MODEL_FILES, check_model_folder

TIMEOUT_SECONDS = 120
LOOPBACK_HOSTS = {"127.0.0.1", "localhost", "::1"}


def token_file() -> Path:
    """The path of the token file."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "smalltale" / "tokens.json"


def server_url(url: str) -> str:
    """Scheme and host of a server's address. Raises SmalltaleError if a token would be sent unencrypted."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise SmalltaleError(f"{url!r} is not a server's address; use one like https://hackathon.example.org")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK_HOSTS:
        raise SmalltaleError(f"{url} would send your token unencrypted; use https")
    return f"{parts.scheme}://{parts.netloc}"


def save_token(url: str, token: str) -> None:
    """Save a token for a server."""
    path = token_file()
    tokens = read_json(path) if path.exists() else {}
    with atomic_file(path) as temporary:
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps({**tokens, server_url(url): token}), encoding="utf-8")


def load_token(url: str) -> str:
    """The token for a server: SMALLTALE_TOKEN, or the saved one. Raises SmalltaleError if there is none."""
    if token := os.environ.get("SMALLTALE_TOKEN"):
        return token
    tokens = read_json(token_file()) if token_file().exists() else {}
    if server_url(url) not in tokens:
        raise SmalltaleError(
            f"there is no token for {server_url(url)}; make one on its account page, then run: smalltale login {server_url(url)}"
        )
    return str(tokens[server_url(url)])


def call_api(
    url: str, path: str, *, token: str | None = None, form: tuple[dict[str, str], Path] | None = None
) -> Any:
    """Call the API. Raises SmalltaleError with every problem that the server reports."""
    headers, body = {"Accept": "application/json"}, None
    if token:
        headers["Authorization"] = f"Bearer {token}"
    if form:
        boundary = secrets.token_hex(16)
        headers["Content-Type"] = f"multipart/form-data; boundary={boundary}"
        body = encode_form(boundary, *form)
    request = urllib.request.Request(f"{server_url(url)}/api/v1{path}", data=body, headers=headers)
    return send_request(request, url)


def send_model(url: str, number: int, folder: Path, token: str) -> Any:
    """Upload a checkpoint folder's model for a submission. Raises SmalltaleError with every problem that the server reports."""
    check_model_folder(folder)
    model = call_api(url, f"/hand-ins/{number}", token=token)["model"]
    if not model["wanted"]:
        raise SmalltaleError(
            f"submission {number} needs no model now (it is {model['state'] or 'not requested'}); "
            "models are uploaded for final submissions, or when an organiser requests one"
        )
    boundary = secrets.token_hex(16)
    parts: list[bytes | Path] = []
    for name in MODEL_FILES:
        if (folder / name).is_file():
            parts += [part_header(boundary, "files", name), folder / name, b"\r\n"]
    parts.append(f"--{boundary}--\r\n".encode())
    size = sum(len(part) if isinstance(part, bytes) else part.stat().st_size for part in parts)
    headers = {
        "Accept": "application/json",
        "Authorization": f"Bearer {token}",
        "Content-Type": f"multipart/form-data; boundary={boundary}",
        "Content-Length": str(size),
    }
    endpoint = f"{server_url(url)}/api/v1/hand-ins/{number}/model"
    return send_request(
        urllib.request.Request(endpoint, data=stream_parts(parts), headers=headers, method="POST"), url
    )


def stream_parts(parts: Sequence[bytes | Path]) -> Iterator[bytes]:
    """The chunks of a large body, so that it is never complete in memory."""
    for part in parts:
        if isinstance(part, bytes):
            yield part
            continue
        with translate_os_errors(part), part.open("rb") as file:
            while chunk := file.read(1 << 20):
                yield chunk


def send_request(request: urllib.request.Request, url: str) -> Any:
    """Send a request. Returns the JSON of the answer. Raises SmalltaleError with every problem that the server reports."""
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            return json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            raise SmalltaleError(format_problem(error.read(), error.code)) from error
    except (urllib.error.URLError, TimeoutError, json.JSONDecodeError) as error:
        reason = getattr(error, "reason", error)
        raise SmalltaleError(
            f"{server_url(url)} does not answer as expected ({reason}); check the address and try again"
        ) from error


def format_problem(body: bytes, status: int) -> str:
    """A problem+json answer as text, one line per field."""
    try:
        problem = json.loads(body)
        lines = [
            "; ".join(
                filter(None, (f"{error['field']}: {error['found']}", error.get("fix", error.get("mend"))))
            )
            for error in problem["errors"]
        ]
        return "\n  ".join([str(problem["title"]), *lines])
    except (ValueError, KeyError, TypeError):
        return f"the server answered with status {status}; try again later"


def encode_form(boundary: str, fields: dict[str, str], path: Path) -> bytes:
    """A multipart form with one file."""
    with translate_os_errors(path):
        content = path.read_bytes()
    name = "".join(char if char.isalnum() or char in "._-" else "_" for char in path.name)
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    ]
    return b"".join(
        [*parts, part_header(boundary, "file", name), content, f"\r\n--{boundary}--\r\n".encode()]
    )


def part_header(boundary: str, field: str, name: str) -> bytes:
    """The headers of a file in a multipart form."""
    return (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()


def read_declaration(path: Path) -> dict[str, str]:
    """The declaration in the submission.json next to a file, as the API's fields; older names of keys are accepted."""
    declaration_path = path.with_name("submission.json")
    declaration = read_json(declaration_path) if declaration_path.exists() else {}
    data = declaration.get("data", declaration.get("data_sources", ""))
    sampling = declaration.get("sampling", declaration.get("generation", ""))
    fields = {
        "weight_class": declaration.get("weight_class"),
        "counted_parameters": declaration.get("counted_parameters"),
        "model_hash": declaration.get("model_hash"),
        "data": ", ".join(map(str, data)) if isinstance(data, list) else data,
        "sampling": sampling if isinstance(sampling, str) else json.dumps(sampling),
        "from_scratch": "true"
        if declaration.get("from_scratch", declaration.get("trained_from_scratch"))
        else "",
    }
    return {key: str(value) for key, value in fields.items() if value not in (None, "")}
