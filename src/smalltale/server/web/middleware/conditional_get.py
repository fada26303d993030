"""Conditional GET for public responses: an ETag, 304 for an unchanged response, and gzip.

Input: the app's responses. Output: the same for anything but a 200 marked `Cache-Control: public`.
Pitfall: a page with a form token must not be marked public: compressed together with reflected input its size would leak the token (BREACH).
"""

from __future__ import annotations

import gzip
import hashlib

from starlette.types import ASGIApp, Message, Receive, Scope, Send

PUBLIC = "public, no-cache"
"""Cache-Control of a response that is the same for every visitor who is not signed in; browsers revalidate it by its ETag."""
GZIP_LEVEL = 1
"""A leaderboard page of 63 kB takes 0.3 ms and shrinks to 5 kB."""


class ConditionalGet:
    """Middleware: buffers a public response to compute its ETag, then answers 304 or compresses it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self.app(scope, receive, send)
            return
        public_start: Message | None = None
        chunks: list[bytes] = []

        async def buffer_public(message: Message) -> None:
            nonlocal public_start
            if message["type"] == "http.response.start" and is_public(message):
                public_start = message
            elif public_start is None:
                await send(message)
            else:
                chunks.append(message.get("body", b""))

        await self.app(scope, receive, buffer_public)
        if public_start is not None:
            await send_conditionally(public_start, b"".join(chunks), dict(scope["headers"]), send)


def is_public(start: Message) -> bool:
    """Whether a response is complete, the same for every visitor, and sets no cookie."""
    headers = dict(start["headers"])
    return (
        start["status"] == 200
        and headers.get(b"cache-control", b"").startswith(b"public")
        and b"set-cookie" not in headers
    )


async def send_conditionally(
    start: Message, body: bytes, request_headers: dict[bytes, bytes], send: Send
) -> None:
    """Send 304 if the client has this body, else the body, gzipped if the client accepts that."""
    etag = b'"' + hashlib.sha256(body).hexdigest()[:32].encode() + b'"'
    headers = [(name, value) for name, value in start["headers"] if name != b"content-length"]
    headers += [(b"etag", etag), (b"vary", b"Accept-Encoding, Cookie, Authorization")]
    client_etags = request_headers.get(b"if-none-match", b"").split(b",")
    if etag in (client_etag.strip().removeprefix(b"W/") for client_etag in client_etags):
        await send({"type": "http.response.start", "status": 304, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        return
    if b"gzip" in request_headers.get(b"accept-encoding", b""):
        body = gzip.compress(body, compresslevel=GZIP_LEVEL, mtime=0)
        headers.append((b"content-encoding", b"gzip"))
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
