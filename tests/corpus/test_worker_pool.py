"""Jobs in worker processes: results, errors, and no process that outlives the parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from smalltale.corpus.worker_pool import WorkerPool
from smalltale.errors import FileProblem


def test_every_job_is_done_once_in_one_process_and_in_two() -> None:
    for count in (1, 2):
        with WorkerPool(count) as pool:
            jobs = [(number, divmod, (number, 7)) for number in range(40)]
            assert dict(pool.run(jobs)) == {number: divmod(number, 7) for number in range(40)}


def test_released_workers_are_started_again() -> None:
    with WorkerPool(2) as pool:
        assert dict(pool.run([(0, divmod, (9, 7))])) == {0: (1, 2)}
        pool.release()
        assert pool.executor is None
        assert dict(pool.run([(1, divmod, (9, 7))])) == {1: (1, 2)}


def test_a_killed_worker_is_an_error_with_advice() -> None:
    with WorkerPool(2) as pool, pytest.raises(FileProblem, match=r"fewer corpus\.processes"):
        list(pool.run([(0, os._exit, (9,))]))


@pytest.mark.all
def test_workers_exit_with_a_killed_parent_and_ignore_ctrl_c(tmp_path: Path) -> None:
    script = tmp_path / "jobs.py"
    script.write_text(
        "import os, time\nfrom smalltale.corpus.worker_pool import WorkerPool\n"
        "if __name__ == '__main__':\n"
        "    with WorkerPool(2) as pool:\n"
        "        print(next(iter(pool.run((n, os.getpid, ()) for n in range(9))))[1], flush=True)\n"
        "        time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    os.kill(worker, signal.SIGINT)
    time.sleep(0.3)
    os.kill(worker, 0)  # raises if the worker has exited
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(50):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("the worker outlived its parent")
