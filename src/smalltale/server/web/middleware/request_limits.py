"""Limits on requests: the size and the duration of a body. Also sets the security headers and logs each request.

Input: ASGI requests. Output: the app's response with security headers, or a refusal (400, 408, 413).
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from smalltale.server.errors import RequestProblem
from smalltale.server.web.middleware.json_logs import REQUEST_LOGGER

log = logging.getLogger(REQUEST_LOGGER)
MAX_BODY_BYTES = 10_000_000 + 256 * 1024
"""The largest submission file, and an allowance for the other fields and the multipart framing."""
UPLOAD_SECONDS = 120
CHUNK_SECONDS = 20
"""Longest wait for the next chunk of a body."""
MODEL_PATH = re.compile(r"(/api/v1)?/(submissions|hand-ins)/[0-9]{1,10}/model")
"""Model uploads have larger limits; who may upload is checked before the body is read (api/model_uploads.py)."""
MODEL_BYTES = 1 << 30
MODEL_SECONDS = 3600
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


class LimitExceeded(Exception):
    """A request that is larger or slower than allowed."""

    def __init__(self, status: int, title: str) -> None:
        super().__init__(title)
        self.status, self.title = status, title


class RequestLimits:
    """The outermost middleware."""

    def __init__(self, app: ASGIApp, *, secure: bool = False) -> None:
        self.app = app
        headers = {**HEADERS, **({"strict-transport-security": "max-age=31536000"} if secure else {})}
        self.headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, received_bytes, status = time.monotonic(), 0, 0
        max_bytes, max_seconds = MAX_BODY_BYTES, UPLOAD_SECONDS
        if MODEL_PATH.fullmatch(scope["path"]):
            max_bytes, max_seconds = MODEL_BYTES, MODEL_SECONDS

        async def receive_limited() -> Message:
            nonlocal received_bytes
            seconds_left = max_seconds - (time.monotonic() - started)
            # Once the response has started, only the client's disconnect is waited for.
            timeout = None if status else max(0.01, min(CHUNK_SECONDS, seconds_left))
            try:
                message = await asyncio.wait_for(receive(), timeout=timeout)
            except TimeoutError as error:
                raise LimitExceeded(
                    408, f"the upload was too slow; it must be complete within {max_seconds} seconds"
                ) from error
            received_bytes += len(message.get("body", b""))
            if received_bytes > max_bytes:
                raise LimitExceeded(413, f"the request is larger than {max_bytes:,} bytes")
            return message

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {name for name, _ in message["headers"]}
                missing = [(name, value) for name, value in self.headers if name not in present]
                message["headers"] = [*message["headers"], *missing]
            await send(message)

        try:
            check_head(scope, max_bytes)
            await self.app(scope, receive_limited, send_with_headers)
        except LimitExceeded as error:
            if not status:
                await send_refusal(send_with_headers, scope, error)
        if log.isEnabledFor(logging.INFO):
            # Only the path is logged: queries and bodies may hold private data.
            fields = {"method": scope["method"], "path": scope["path"], "status": status}
            milliseconds = round(1000 * (time.monotonic() - started), 1)
            log.info("request", extra={**fields, "milliseconds": milliseconds})


def check_head(scope: Scope, max_bytes: int) -> None:
    """Check the address and the declared length. Raises LimitExceeded."""
    if b"%00" in scope.get("raw_path", b"") or b"%00" in scope["query_string"]:
        raise LimitExceeded(400, "the address has a NUL character; remove it")
    length = dict(scope["headers"]).get(b"content-length", b"0")
    if length.isdigit() and int(length) > max_bytes:
        raise LimitExceeded(413, f"the request is larger than {max_bytes:,} bytes")


async def send_refusal(send: Send, scope: Scope, error: LimitExceeded) -> None:
    """Answer without reading the rest of the body, and close the connection."""
    body, media_type = error.title, b"text/plain; charset=utf-8"
    if scope["path"].startswith("/api/"):
        body = json.dumps(RequestProblem(error.status, error.title).as_json())
        media_type = b"application/problem+json"
    headers = [(b"content-type", media_type), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})
