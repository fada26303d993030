"""Run the jobs of a build in several processes, or in this one.

Input: numbered jobs, each a function and its arguments. Output: their results, in the order in which they finish.
Pitfall: workers are spawned, so a script that builds a corpus needs `if __name__ == "__main__":`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

from smalltale.errors import FileProblem

Result = TypeVar("Result")
Job = tuple[int, Callable[..., Result], tuple[Any, ...]]


class WorkerPool:
    """Runs jobs in `count` processes, or in this one for a count of 1."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Stop the processes and free their memory; the next job starts new ones."""
        if self.executor:
            self.executor.shutdown(wait=True, cancel_futures=True)
            self.executor = None

    def run(self, jobs: Iterable[Job[Result]]) -> Iterator[tuple[int, Result]]:
        """Yield (number, result) of every job; at most two jobs per process are pending, to bound memory."""
        if self.count == 1:
            for number, function, arguments in jobs:
                yield number, function(*arguments)
            return
        if self.executor is None:
            self.executor = ProcessPoolExecutor(self.count, get_context("spawn"), initializer=follow_parent)
        pending: dict[Future[Result], int] = {}
        try:
            for number, function, arguments in jobs:
                pending[self.executor.submit(function, *arguments)] = number
                while len(pending) >= 2 * self.count:
                    yield from pop_finished(pending)
            while pending:
                yield from pop_finished(pending)
        except BrokenProcessPool as error:
            raise FileProblem(
                "a worker process was killed, most often for lack of memory; repeat the build with fewer corpus.processes: it resumes"
            ) from error


def follow_parent() -> None:
    """Ignore Ctrl-C, which the parent handles, and exit when the parent ends: a killed parent closes no pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()

    def exit_with_parent() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()


def pop_finished(pending: dict[Future[Result], int]) -> Iterator[tuple[int, Result]]:
    """Wait for at least one job, then yield the finished ones."""
    done, _ = wait(pending, return_when=FIRST_COMPLETED)
    for future in done:
        yield pending.pop(future), future.result()
