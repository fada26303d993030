"""Judges 10,000 stories with a loopback server that answers after 0.5 s: rate, memory, and resuming after SIGKILL.

Output: results/judging.json. 64 concurrent requests and 0.5 s per answer allow at most 128 judgements per second; server and run
share the cores.

    python -m benchmarks.judging.throughput [--judgements 10000] [--kills 20] [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
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

from benchmarks.lib.records import RESULTS, add_record_arguments, provenance, write_record
from smalltale.submission import Completion, write_submission

ANSWER_SECONDS = 0.5
CONCURRENCY = 64


def serve(ready: Connection) -> None:
    """A chat endpoint whose marks depend only on the text."""

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
                response = json.dumps(
                    {
                        "choices": [{"message": {"content": content}}],
                        "usage": {"prompt_tokens": 400, "completion_tokens": 60},
                    }
                ).encode()
                await asyncio.sleep(ANSWER_SECONDS)
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                    % (len(response), response)
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


def start_judge(url: str, submission: Path, out: Path) -> subprocess.Popen[bytes]:
    """Start `smalltale judge run`."""
    command = [
        sys.executable,
        "-m",
        "smalltale",
        "judge",
        "run",
        str(submission),
        "--judge",
        f"{url}#m",
        "--out",
        str(out),
    ]
    return subprocess.Popen(
        [*command, "--set", f"judging.concurrency={CONCURRENCY}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def judge_with_kills(url: str, submission: Path, out: Path, kills: int, seconds: float) -> list[float]:
    """Judge to the end with kills at random moments. Returns the moments, in seconds after each start."""
    generator, moments = random.Random(0), []
    for _ in range(kills):
        process = start_judge(url, submission, out)
        moment = generator.uniform(0.5, 2 * seconds / (kills + 1))
        try:
            process.wait(moment)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            moments.append(round(moment, 2))
    if start_judge(url, submission, out).wait() != 0:
        sys.exit("the last run failed")
    return moments


def measure(judgements: int, kills: int) -> dict[str, Any]:
    """Measure all figures."""
    port_receiver, port_sender = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(port_sender,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{port_receiver.recv()}/v1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        submission = folder / "submission.jsonl"
        rows = [
            Completion(f"Prompt {n // 4}", f"This is story number {n}. " + "The cat sat on the mat. " * 30)
            for n in range(judgements)
        ]
        write_submission(submission, rows, {})
        began = time.monotonic()
        process = start_judge(url, submission, folder / "uninterrupted")
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            sys.exit("the run failed")
        total_seconds = time.monotonic() - began
        judging_seconds = json.loads((folder / "uninterrupted" / "meta.json").read_text())["seconds"]
        moments = judge_with_kills(url, submission, folder / "killed", kills, total_seconds)
        is_identical = pq.read_table(folder / "uninterrupted" / "judgements.parquet").equals(
            pq.read_table(folder / "killed" / "judgements.parquet")
        )
    server.kill()
    return {
        "judgements": judgements,
        "judgements_per_second": round(judgements / judging_seconds, 1),
        "judgements_per_second_whole_process": round(judgements / total_seconds, 1),
        "most_possible_per_second": CONCURRENCY / ANSWER_SECONDS,
        "resident_megabytes": round(usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2), 1),
        "kills": len(moments),
        "killed_after_seconds": moments,
        "identical_after_kills": is_identical,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judgements", type=int, default=10_000)
    parser.add_argument("--kills", type=int, default=20)
    add_record_arguments(parser, RESULTS / "judging.json")
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    figures = measure(1000, 2) if arguments.quick else measure(arguments.judgements, arguments.kills)
    write_record(arguments.out, {**figures, **provenance(("httpx", "pyarrow"), arguments.commit)}, figures)


if __name__ == "__main__":
    main()
