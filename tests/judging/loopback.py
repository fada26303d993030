"""An OpenAI-compatible server on loopback whose script decides each response, its delay and its faults."""

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
class Response:
    """One response."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    wait_seconds: float = 0.0
    cut: bool = False
    """Close the connection in the middle of the body."""
    trickle_seconds: float = 0.0
    """Send the body a few bytes at a time, over this duration."""


Script = Callable[[dict[str, Any], int], Response]
"""(request, number of earlier requests about this text) -> response."""


@dataclass
class Loopback:
    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    request_times: list[float] = field(default_factory=list)
    """time.monotonic() of each request."""
    request_counts: Counter[str] = field(default_factory=Counter)


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


def logprob_entry(token: str, shares: dict[str, float] | None = None) -> dict[str, Any]:
    """One token of a response's logprobs; `shares`: the probabilities of the tokens at its position."""
    shares = shares or {token: 1.0}
    top = [{"token": alternative, "logprob": math.log(share)} for alternative, share in shares.items()]
    return {"token": token, "logprob": math.log(shares[token]), "top_logprobs": top}


def nonce(request: dict[str, Any]) -> str:
    return str(re.findall(r'"check" is the text (\d+)', request["messages"][-1]["content"])[-1])


def text_of(request: dict[str, Any]) -> str:
    """The completion that a request is about."""
    match = re.search(r"\n\*\*\*\n(.*)\n=== ", request["messages"][1]["content"], re.DOTALL)
    return match.group(1) if match else ""


def answer(request: dict[str, Any], **changes: Any) -> str:
    """A valid answer, with changes."""
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
                response = script(request, server.request_counts[text])
                server.request_counts[text] += 1
                if keep:
                    server.requests.append(request)
                    server.request_times.append(time.monotonic())
                await asyncio.sleep(response.wait_seconds)
                extra = "".join(f"{name}: {value}\r\n" for name, value in response.headers.items())
                head_out = f"HTTP/1.1 {response.status} X\r\ncontent-type: application/json\r\n{extra}content-length: {len(response.body)}\r\n\r\n"
                writer.write(head_out.encode())
                if response.trickle_seconds:
                    for start in range(0, len(response.body), DRIP):
                        writer.write(response.body[start : start + DRIP])
                        await writer.drain()
                        await asyncio.sleep(response.trickle_seconds * DRIP / len(response.body))
                else:
                    writer.write(response.body[: len(response.body) // 2] if response.cut else response.body)
                await writer.drain()
                if response.cut:
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
        connections = asyncio.all_tasks(loop)
        for connection in connections:
            connection.cancel()
        loop.run_until_complete(asyncio.gather(*connections, return_exceptions=True))
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(loop.task.cancel)  # type: ignore[attr-defined]
        thread.join(10)
