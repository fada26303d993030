"""Jobs in processes: order does not matter, errors come through, nobody is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from smalltale.corpus.workers import Workers
from smalltale.errors import FileProblem


def test_every_job_is_done_once_in_one_process_and_in_two() -> None:
    for count in (1, 2):
        with Workers(count) as start:
            jobs = [(number, divmod, (number, 7)) for number in range(40)]
            assert dict(start(jobs)) == {number: divmod(number, 7) for number in range(40)}


def test_released_workers_are_started_anew() -> None:
    pool = Workers(2)
    with pool as start:
        assert dict(start([(0, divmod, (9, 7))])) == {0: (1, 2)}
        pool.release()
        assert pool.pool is None
        assert dict(start([(1, divmod, (9, 7))])) == {1: (1, 2)}


def test_a_worker_that_is_killed_is_explained() -> None:
    with Workers(2) as start, pytest.raises(FileProblem, match=r"fewer corpus\.processes"):
        list(start([(0, os._exit, (9,))]))


@pytest.mark.all
def test_workers_end_with_a_killed_parent_and_leave_ctrl_c_to_it(tmp_path: Path) -> None:
    script = tmp_path / "jobs.py"
    script.write_text(
        "import os, time\nfrom smalltale.corpus.workers import Workers\n"
        "if __name__ == '__main__':\n"
        "    with Workers(2) as start:\n"
        "        print(next(iter(start((n, os.getpid, ()) for n in range(9))))[1], flush=True)\n"
        "        time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    os.kill(worker, signal.SIGINT)
    time.sleep(0.3)
    os.kill(worker, 0)  # still there
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
