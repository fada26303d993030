"""Client of the API for contestants: saves a token, submits a file, uploads a model. HTTP by the standard library.

Input: a server's address, a file. Output: the server's answer.
Note: only its owner can read the token file, and a saved token is sent only to its server.
"""

from __future__ import annotations

import json
import os
import secrets
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from smalltale.errors import SmalltaleError
from smalltale.files import atomic_file, read_json, translate_os_errors
from smalltale.server.verification.model_checks import MODEL_FILES, check_model_folder

TIMEOUT_SECONDS = 120
LOOPBACK_HOSTS = {"127.0.0.1", "localhost", "::1"}


def token_file() -> Path:
    """The file with a token per server, in the user's configuration folder."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "smalltale" / "tokens.json"


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
            f"there is no token for {server_url(url)}; create one on its account page, then run: smalltale login {server_url(url)}"
        )
    return str(tokens[server_url(url)])


def call_api(
    url: str,
    path: str,
    *,
    token: str | None = None,
    fields: Mapping[str, str] | None = None,
    files: Sequence[tuple[str, Path]] = (),
) -> Any:
    """Send a GET request to the API, or with `files` (form field, path) a POST request with a multipart form.

    Returns the JSON of the answer. Raises SmalltaleError with every problem that the server reports.
    """
    request = urllib.request.Request(
        f"{server_url(url)}/api/v1{path}", headers={"Accept": "application/json"}
    )
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    if files:
        boundary = secrets.token_hex(16)
        parts = form_parts(boundary, fields or {}, files)
        request.data = stream_parts(parts)
        request.add_header("Content-Type", f"multipart/form-data; boundary={boundary}")
        request.add_header("Content-Length", str(sum(map(part_size, parts))))
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


def send_model(url: str, number: int, folder: Path, token: str) -> Any:
    """Upload a checkpoint folder's model for a submission. Raises SmalltaleError with every problem that the server reports."""
    check_model_folder(folder)
    model = call_api(url, f"/submissions/{number}", token=token)["model"]
    if not model["wanted"]:
        raise SmalltaleError(
            f"submission {number} needs no model now (it is {model['state'] or 'not requested'}); "
            "models are uploaded for final submissions, or when an organiser requests one"
        )
    files = [("files", folder / name) for name in MODEL_FILES if (folder / name).is_file()]
    return call_api(url, f"/submissions/{number}/model", token=token, files=files)


def form_parts(
    boundary: str, fields: Mapping[str, str], files: Sequence[tuple[str, Path]]
) -> list[bytes | Path]:
    """The parts of a multipart form: bytes, and the paths of files whose contents belong there."""
    start = f"--{boundary}\r\nContent-Disposition: form-data; name="
    parts: list[bytes | Path] = [
        f'{start}"{key}"\r\n\r\n{value}\r\n'.encode() for key, value in fields.items()
    ]
    for field, path in files:
        name = "".join(char if char.isalnum() or char in "._-" else "_" for char in path.name)
        header = f'{start}"{field}"; filename="{name}"\r\nContent-Type: application/octet-stream\r\n\r\n'
        parts += [header.encode(), path, b"\r\n"]
    return [*parts, f"--{boundary}--\r\n".encode()]


def part_size(part: bytes | Path) -> int:
    """The length of a part in bytes. Raises FileProblem if its file cannot be read."""
    if isinstance(part, bytes):
        return len(part)
    with translate_os_errors(part):
        return part.stat().st_size


def stream_parts(parts: Sequence[bytes | Path]) -> Iterator[bytes]:
    """The parts in chunks, so that a large file is never completely in memory."""
    for part in parts:
        if isinstance(part, bytes):
            yield part
            continue
        with translate_os_errors(part), part.open("rb") as file:
            while chunk := file.read(1 << 20):
                yield chunk


def format_problem(body: bytes, status: int) -> str:
    """A problem+json answer as text, one line per field."""
    try:
        problem = json.loads(body)
        lines = [str(problem["title"])]
        for error in problem["errors"]:
            # Servers of earlier versions call the fix `mend`.
            fix = error.get("fix", error.get("mend"))
            lines.append(f"{error['field']}: {error['found']}" + (f"; {fix}" if fix else ""))
        return "\n  ".join(lines)
    except (ValueError, KeyError, TypeError):
        return f"the server answered with status {status}; try again later"


def read_declaration(path: Path) -> dict[str, str]:
    """The declaration in the submission.json next to a file, as the API's fields; older names of keys are accepted."""
    declaration_path = path.with_name("submission.json")
    declaration = read_json(declaration_path) if declaration_path.exists() else {}
    data = declaration.get("data", declaration.get("data_sources", ""))
    sampling = declaration.get("sampling", declaration.get("generation", ""))
    from_scratch = declaration.get("from_scratch", declaration.get("trained_from_scratch"))
    fields = {
        **{key: declaration.get(key) for key in ("weight_class", "counted_parameters", "model_hash")},
        "data": ", ".join(map(str, data)) if isinstance(data, list) else data,
        "sampling": sampling if isinstance(sampling, str) else json.dumps(sampling),
        "from_scratch": "true" if from_scratch else "",
    }
    return {key: str(value) for key, value in fields.items() if value not in (None, "")}
