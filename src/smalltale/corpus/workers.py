"""Run the jobs of a build in several processes, or in this one.

In: numbered jobs, a function and its arguments each. Out: their results, as they are finished.
Beware: workers are started fresh (spawn), so a script that builds needs `if __name__ == "__main__":`.
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

from smalltale.corpus import assemble
from smalltale.errors import FileProblem

Made = TypeVar("Made")


class Workers:
    """Runs jobs in processes, or here where that is faster; results come as they are finished."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> assemble.Start:
        return self.run

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """End the processes and free what they hold; the next job starts new ones."""
        if self.pool:
            self.pool.shutdown(wait=True, cancel_futures=True)
            self.pool = None

    def run(
        self, jobs: Iterable[tuple[int, Callable[..., Made], tuple[Any, ...]]]
    ) -> Iterator[tuple[int, Made]]:
        """(number, result) of every job; never more than two a process wait, so memory stays bounded."""
        if self.count == 1:
            for number, function, arguments in jobs:
                yield number, function(*arguments)
            return
        if self.pool is None:
            self.pool = ProcessPoolExecutor(
                self.count, mp_context=get_context("spawn"), initializer=follow_parent
            )
        waiting: dict[Future[Made], int] = {}
        try:
            for number, function, arguments in jobs:
                waiting[self.pool.submit(function, *arguments)] = number
                while len(waiting) >= 2 * self.count:
                    yield from finished(waiting)
            while waiting:
                yield from finished(waiting)
        except BrokenProcessPool as error:
            raise FileProblem(
                "a worker process was killed, most often for memory; build again with fewer corpus.processes, it goes on from there"
            ) from error


def follow_parent() -> None:
    """Leave Ctrl-C to the parent, and end when it ends: a killed parent closes nothing that a worker waits on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def finished(waiting: dict[Future[Made], int]) -> Iterator[tuple[int, Made]]:
    """Wait for at least one job and hand over what is done."""
    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
    for future in done:
        yield waiting.pop(future), future.result()
