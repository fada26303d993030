"""A loopback OpenAI-compatible server that answers, late, wrongly or not at all, as its script says."""

from __future__ import annotations

import asyncio
import json
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

DRIP = 24
MARKS = {"grammar": 7, "creativity": 6, "consistency": 8, "plot": 5}


@dataclass
class Said:
    """One response."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    wait_seconds: float = 0.0
    cut: bool = False
    """Close the connection in the middle of the body."""
    trickle_seconds: float = 0.0
    """Send the body a few bytes at a time, over so long."""


Script = Callable[[dict[str, Any], int], Said]
"""(request, how often this text was asked about before) -> response."""


@dataclass
class Loopback:
    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)
    asked_at: list[float] = field(default_factory=list)
    """time.monotonic() of each request."""
    seen: Counter[str] = field(default_factory=Counter)


def chat(content: str | None, logprobs: Any = None, **message: Any) -> bytes:
    """A chat completion's body."""
    choice = {
        "logprobs": logprobs,
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": content, **message},
    }
    usage = {"prompt_tokens": 400, "completion_tokens": 60, "total_tokens": 460}
    return json.dumps(
        {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [choice],
            "usage": usage,
        }
    ).encode()


def token_said(token: str, shares: dict[str, float] | None = None) -> dict[str, Any]:
    """One token as logprobs tell it, with the probabilities of what could stand in its place."""
    shares = shares or {token: 1.0}
    top = [{"token": each, "logprob": math.log(share)} for each, share in shares.items()]
    return {"token": token, "logprob": math.log(shares[token]), "top_logprobs": top}


def nonce(request: dict[str, Any]) -> str:
    return str(re.findall(r'"check" is the text (\d+)', request["messages"][-1]["content"])[-1])


def text_of(request: dict[str, Any]) -> str:
    """The completion that a request is about."""
    found = re.search(r"\n\*\*\*\n(.*)\n=== ", request["messages"][1]["content"], re.DOTALL)
    return found.group(1) if found else ""


def answer(request: dict[str, Any], **changes: Any) -> str:
    """A right answer, with changes."""
    return json.dumps(
        {"check": nonce(request), "assessment": "Clear and kind.", **MARKS, "age": "C", **changes}
    )


@contextmanager
def serving(script: Script, *, keep: bool = True) -> Iterator[Loopback]:
    """Serve `script` on a free loopback port in a thread."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    server = Loopback("")

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(re.search(rb"content-length: *(\d+)", head, re.IGNORECASE).group(1))  # type: ignore[union-attr]
                request = json.loads(await reader.readexactly(length))
                text = text_of(request)
                said = script(request, server.seen[text])
                server.seen[text] += 1
                if keep:
                    server.asked.append(request)
                    server.asked_at.append(time.monotonic())
                await asyncio.sleep(said.wait_seconds)
                extra = "".join(f"{name}: {value}\r\n" for name, value in said.headers.items())
                head_out = f"HTTP/1.1 {said.status} X\r\ncontent-type: application/json\r\n{extra}content-length: {len(said.body)}\r\n\r\n"
                writer.write(head_out.encode())
                if said.trickle_seconds:
                    for place in range(0, len(said.body), DRIP):
                        writer.write(said.body[place : place + DRIP])
                        await writer.drain()
                        await asyncio.sleep(said.trickle_seconds * DRIP / len(said.body))
                else:
                    writer.write(said.body[: len(said.body) // 2] if said.cut else said.body)
                await writer.drain()
                if said.cut:
                    break
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()

    async def main() -> None:
        listening = await asyncio.start_server(client, "127.0.0.1", 0)
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
        ready.set()
        try:
            async with listening:
                await listening.serve_forever()
        except asyncio.CancelledError:
            pass

    def run() -> None:
        asyncio.set_event_loop(loop)
        task = loop.create_task(main())
        loop.task = task  # type: ignore[attr-defined]
        loop.run_until_complete(task)
        rest = asyncio.all_tasks(loop)
        for each in rest:
            each.cancel()
        loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(loop.task.cancel)  # type: ignore[attr-defined]
        thread.join(10)
