"""Limits of the door: how much a request may bring, how slowly, how often a password may be guessed; and the headers of every answer.

In: ASGI requests. Out: the same, or a refusal.
Beware: the sign-in limit is kept per process; behind several processes the bound is that many times as high.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
import time
from collections import defaultdict, deque

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smalltale.server.errors import Problem
from smalltale.server.web.middleware.json_logs import REQUESTS

log = logging.getLogger(REQUESTS)
BODY_SLACK = 256 * 1024
"""Beyond the largest hand-in: the other fields and the multipart frame."""
UPLOAD_SECONDS = 120
MODEL_PATH = re.compile(r"(/api/v1)?/hand-ins/[0-9]{1,10}/model")
"""Where models come in, which are larger; who may send one is asked before its bytes are read (sending.py)."""
MODEL_BYTES = 1 << 30
MODEL_SECONDS = 3600
PIECE_SECONDS = 20
POLICY = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class TooMuch(Exception):
    """A body that is larger or slower than we take."""

    def __init__(self, status: int, title: str) -> None:
        super().__init__(title)
        self.status, self.title = status, title


class Door:
    """Outermost middleware."""

    def __init__(self, app: ASGIApp, most_bytes: int, *, secure: bool = False) -> None:
        self.app, self.most = app, most_bytes + BODY_SLACK
        headers = {**HEADERS, **({"strict-transport-security": "max-age=31536000"} if secure else {})}
        self.headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        taken, started, answered = 0, time.monotonic(), 0
        most, seconds = self.most, UPLOAD_SECONDS
        if MODEL_PATH.fullmatch(scope["path"]):
            most, seconds = max(most, MODEL_BYTES), MODEL_SECONDS

        async def counted() -> Message:
            nonlocal taken
            left = seconds - (time.monotonic() - started)
            try:
                message = (
                    await asyncio.wait_for(receive(), timeout=max(0.01, min(PIECE_SECONDS, left)))
                    if not answered
                    else await receive()
                )
            except TimeoutError as error:
                raise TooMuch(
                    408, f"the upload was too slow; it must be whole within {seconds} seconds"
                ) from error
            taken += len(message.get("body", b""))
            if taken > most:
                raise TooMuch(413, f"the request is larger than {most:,} bytes")
            return message

        async def guarded(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = message["status"]
                present = {name for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *((name, value) for name, value in self.headers if name not in present),
                ]
            await send(message)

        try:
            if b"%00" in scope.get("raw_path", b"") or b"%00" in scope["query_string"]:
                raise TooMuch(400, "the address has a NUL character; remove it")
            length = dict(scope["headers"]).get(b"content-length", b"0")
            if length.isdigit() and int(length) > most:
                raise TooMuch(413, f"the request is larger than {most:,} bytes")
            await self.app(scope, counted, guarded)
        except TooMuch as problem:
            if not answered:
                await refuse(guarded, scope, problem)
        if log.isEnabledFor(logging.INFO):
            # The path only: queries and bodies may hold what is private.
            milliseconds = round(1000 * (time.monotonic() - started), 1)
            said = {"method": scope["method"], "path": scope["path"], "status": answered}
            log.info("request", extra={**said, "milliseconds": milliseconds})


async def refuse(send: Send, scope: Scope, problem: TooMuch) -> None:
    """Answer without having read the rest."""
    api = scope["path"].startswith("/api/")
    text = (
        json.dumps({"type": "about:blank", "title": problem.title, "status": problem.status, "errors": []})
        if api
        else problem.title
    )
    kind = b"application/problem+json" if api else b"text/plain; charset=utf-8"
    await send(
        {
            "type": "http.response.start",
            "status": problem.status,
            "headers": [(b"content-type", kind), (b"connection", b"close")],
        }
    )
    await send({"type": "http.response.body", "body": text.encode()})


class SignInLimit:
    """At most so many failed sign-ins from one address, or for one name, in a while."""

    def __init__(self, most: int = 10, seconds: float = 600.0) -> None:
        self.most, self.seconds = most, seconds
        self.failures: dict[str, deque[float]] = defaultdict(deque)
        self.lock = threading.Lock()

    def keys(self, client: str, handle: str) -> tuple[str, str]:
        return f"from {client}", f"for {handle.strip().lower()[:40]} from {client}"

    def refuse(self, client: str, handle: str) -> None:
        """Raise Problem 429 after too many failures."""
        now = time.monotonic()
        with self.lock:
            for key, most in zip(self.keys(client, handle), (self.most * 5, self.most), strict=True):
                kept = self.failures.get(key)
                while kept and now - kept[0] > self.seconds:
                    kept.popleft()
                if kept is not None and not kept:
                    del self.failures[key]
                if kept and len(kept) >= most:
                    raise Problem(
                        429,
                        f"too many failed sign-ins; wait {int(self.seconds - (now - kept[0])) + 1} seconds",
                    )

    def failed(self, client: str, handle: str) -> None:
        """Count a failure."""
        with self.lock:
            if len(self.failures) > 20_000:
                self.failures.clear()
            for key in self.keys(client, handle):
                self.failures[key].append(time.monotonic())
