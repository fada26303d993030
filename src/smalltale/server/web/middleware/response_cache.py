"""Answers kept for a moment for visitors nobody knows: made once for all of them, compressed once, 304 where nothing changed.

In: GET requests without a cookie or a token. Out: the app's answer, or the one kept.
Beware: only what the app marks `Cache-Control: public` is kept; nothing with a form, and nothing of a person, may carry that.
"""

from __future__ import annotations

import gzip
import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

Headers = list[tuple[bytes, bytes]]
PUBLIC = "public, no-cache"
"""What the app writes on an answer that is the same for everybody who is not signed in."""
KNOWN_BY = {b"cookie", b"authorization"}
FRESH_SECONDS = 0.5
MOST_ANSWERS = 500
MOST_BYTES = 1_000_000
"""An answer larger than this is made anew for each visitor."""
MOST_ADDRESS = 300
"""Longer addresses are not kept: nobody links to them."""


@dataclass
class Kept:
    """One answer."""

    headers: Headers
    body: bytes
    made: float
    squeezed: bytes
    tag: bytes
    renewing: bool = field(default=False)
    """Whether some visitor is already fetching the next one."""


class Shelf:
    """Middleware. While an answer is made anew, for as long again, others are given the last one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.kept: OrderedDict[tuple[bytes, ...], Kept] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self.app(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        key = (headers.get(b"host", b""), scope["path"].encode(), scope["query_string"])
        if KNOWN_BY & headers.keys() or sum(map(len, key)) > MOST_ADDRESS:
            await self.app(scope, receive, send)
            return
        kept = self.kept.get(key)
        age = time.monotonic() - kept.made if kept else 0.0
        if kept and (age < FRESH_SECONDS or (kept.renewing and age < 2 * FRESH_SECONDS)):
            await answer(kept, headers, send)
            return
        if kept:
            kept.renewing = True
        made = await self.make(scope, receive, send, key)
        if made:
            await answer(made, headers, send)

    async def make(self, scope: Scope, receive: Receive, send: Send, key: tuple[bytes, ...]) -> Kept | None:
        """Ask the app. Keeps and returns what may be kept; anything else goes straight on, and None comes back."""
        began = time.monotonic()
        start: Message = {}
        parts: list[bytes] = []
        keeping = False

        async def caught(message: Message) -> None:
            nonlocal start, keeping
            if message["type"] == "http.response.start":
                start, keeping = message, may_be_kept(message)
            elif keeping:
                parts.append(message.get("body", b""))
            if not keeping:
                await send(message)

        await self.app(scope, receive, caught)
        if not keeping:
            self.kept.pop(key, None)
            return None
        body = b"".join(parts)
        made = Kept(
            headers=[(name, value) for name, value in start["headers"] if name != b"content-length"],
            body=body,
            made=began,
            squeezed=gzip.compress(body, compresslevel=5, mtime=0),
            tag=b'"' + hashlib.sha256(body).hexdigest()[:32].encode() + b'"',
        )
        if len(body) <= MOST_BYTES:
            self.kept[key] = made
            self.kept.move_to_end(key)
            while len(self.kept) > MOST_ANSWERS:
                self.kept.popitem(last=False)
        return made


def may_be_kept(message: Message) -> bool:
    """Whether an answer is whole, the same for everybody, and plants no cookie."""
    headers = dict(message["headers"])
    return (
        message["status"] == 200
        and headers.get(b"cache-control", b"").startswith(b"public")
        and b"set-cookie" not in headers
    )


async def answer(kept: Kept, asked: dict[bytes, bytes], send: Send) -> None:
    """Send a kept answer, squeezed where the visitor takes that, or 304 where it has it already."""
    headers = [*kept.headers, (b"etag", kept.tag), (b"vary", b"Accept-Encoding, Cookie, Authorization")]
    has = asked.get(b"if-none-match", b"")
    if kept.tag in (each.strip().removeprefix(b"W/") for each in has.split(b",")):
        await send({"type": "http.response.start", "status": 304, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
        return
    body = kept.body
    if b"gzip" in asked.get(b"accept-encoding", b""):
        body = kept.squeezed
        headers.append((b"content-encoding", b"gzip"))
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
