"""10,000 judgements against a loopback server that answers after 0.5 s: rate, memory, and resuming after kill -9.

Out: benchmarks/results/judging.json. Run: python -m benchmarks.judging.throughput [--judgements 10000] [--kills 20]
Beware: 64 requests at once and 0.5 s an answer allow 128 judgements a second at most; server and run share the cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from smalltale.files import git_commit, write_json
from smalltale.machine import usable_cores
from smalltale.submission import Completion, write_submission

ANSWER_SECONDS = 0.5
AT_ONCE = 64


def serve(ready: Connection) -> None:
    """A chat endpoint whose marks depend on the text alone."""

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(re.search(rb"content-length: *(\d+)", head, re.IGNORECASE).group(1))  # type: ignore[union-attr]
                body = await reader.readexactly(length)
                nonce = re.search(rb'check\\" is the text (\d+)', body).group(1).decode()  # type: ignore[union-attr]
                number = int(re.search(rb"story number (\d+)", body).group(1))  # type: ignore[union-attr]
                marks = {
                    name: 1 + (number * prime) % 10
                    for name, prime in (("grammar", 3), ("creativity", 7), ("consistency", 11), ("plot", 13))
                }
                content = json.dumps(
                    {"check": nonce, "assessment": f"Read {number}.", **marks, "age": "ABCDEF"[number % 6]}
                )
                said = json.dumps(
                    {
                        "choices": [{"message": {"content": content}}],
                        "usage": {"prompt_tokens": 400, "completion_tokens": 60},
                    }
                ).encode()
                await asyncio.sleep(ANSWER_SECONDS)
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                    % (len(said), said)
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(client, "127.0.0.1", 0, backlog=512)
        ready.send(server.sockets[0].getsockname()[1])
        async with server:
            await server.serve_forever()

    asyncio.run(main())


def run(url: str, hand_in: Path, out: Path) -> subprocess.Popen[bytes]:
    """`smalltale judge run` as a process."""
    command = [
        sys.executable,
        "-m",
        "smalltale",
        "judge",
        "run",
        str(hand_in),
        "--judge",
        f"{url}#m",
        "--out",
        str(out),
    ]
    return subprocess.Popen(
        [*command, "--set", f"judging.concurrency={AT_ONCE}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def with_kills(url: str, hand_in: Path, out: Path, kills: int, seconds: float) -> list[float]:
    """Run to the end, killed at random moments. Returns the moments, in seconds since each start."""
    draw, moments = random.Random(0), []
    for _ in range(kills):
        process = run(url, hand_in, out)
        moment = draw.uniform(0.5, 2 * seconds / (kills + 1))
        try:
            process.wait(moment)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            moments.append(round(moment, 2))
    if run(url, hand_in, out).wait() != 0:
        sys.exit("the last run failed")
    return moments


def measure(judgements: int, kills: int) -> dict[str, Any]:
    """All figures."""
    ready, theirs = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{ready.recv()}/v1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hand_in = folder / "submission.jsonl"
        rows = [
            Completion(f"Prompt {n // 4}", f"This is story number {n}. " + "The cat sat on the mat. " * 30)
            for n in range(judgements)
        ]
        write_submission(hand_in, rows, {})
        began = time.monotonic()
        process = run(url, hand_in, folder / "whole")
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            sys.exit("the run failed")
        whole_process = time.monotonic() - began
        inside = json.loads((folder / "whole" / "meta.json").read_text())["seconds"]
        moments = with_kills(url, hand_in, folder / "killed", kills, whole_process)
        same = pq.read_table(folder / "whole" / "judgements.parquet").equals(
            pq.read_table(folder / "killed" / "judgements.parquet")
        )
    server.kill()
    return {
        "judgements": judgements,
        "judgements_per_second": round(judgements / inside, 1),
        "judgements_per_second_whole_process": round(judgements / whole_process, 1),
        "most_possible_per_second": AT_ONCE / ANSWER_SECONDS,
        "resident_megabytes": round(usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2), 1),
        "kills": len(moments),
        "killed_after_seconds": moments,
        "identical_after_kills": same,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judgements", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "judging.json")
    parser.add_argument("--quick", action="store_true", help="1,000 judgements and two kills")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    figures = measure(1000, 2) if options.quick else measure(options.judgements, options.kills)
    machine = {"cores": usable_cores(), "platform": platform.platform(), "python": platform.python_version()}
    write_json(options.out, {**figures, "machine": machine, "commit": git_commit()})
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
