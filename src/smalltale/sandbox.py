"""Runs Python as a subprocess with limits on time and memory and without secrets in its environment.

Input: arguments for `python`. Output: what the process wrote to standard output.
Note: this protects from a parser that hangs or takes all memory on an untrusted file. It does not protect from hostile code: the
process has the same user, files and network, so it may open only file formats that execute nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from smalltale.errors import SmalltaleError

PASSED_VARIABLES = {"PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV", "OMP_NUM_THREADS"}
"""The only environment variables that are passed on: no database URL, no secret of a sign-in provider, no API key of a judge."""
OFFLINE_VARIABLES = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
TIMEOUT_SECONDS = 120
MEMORY_GIBIBYTES = 6
POLL_SECONDS = 0.5


class SandboxStopped(Exception):
    """The caller's stop event was set while the process ran; the process was killed."""


def run_limited(
    arguments: Sequence[str],
    *,
    timeout_seconds: int = TIMEOUT_SECONDS,
    memory_gibibytes: int = MEMORY_GIBIBYTES,
    stop: threading.Event | None = None,
) -> str:
    """Run `python ARGUMENTS` and return its standard output; its child processes are killed when it ends.

    Raises SmalltaleError if it fails or reaches a limit, with a message that continues the caller's name of the task ("took more
    than 120 seconds"). Raises SandboxStopped if `stop` is set first.
    """
    # A shell sets the limits, because Python code between fork and exec may hang if other threads hold locks.
    limits = f'ulimit -t {2 * timeout_seconds} && ulimit -d {memory_gibibytes << 20} && exec "$@"'
    environment = {name: value for name, value in os.environ.items() if name in PASSED_VARIABLES}
    with subprocess.Popen(
        ["/bin/sh", "-c", limits, "sh", sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | OFFLINE_VARIABLES,
        start_new_session=True,
    ) as process:
        try:
            output, errors = wait_for_output(process, timeout_seconds, stop)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    # Our commands exit with 1 for a negative verdict, which they print on standard output.
    if process.returncode not in {0, 1} or not output.strip():
        last_line = (errors.strip().splitlines() or ["no message"])[-1][:300]
        raise SmalltaleError(
            f"stopped with status {process.returncode} (memory limit {memory_gibibytes} GiB): {last_line}"
        )
    return output


def wait_for_output(
    process: subprocess.Popen[str], timeout_seconds: int, stop: threading.Event | None
) -> tuple[str, str]:
    """Standard output and standard error. Raises SmalltaleError at the timeout, SandboxStopped once `stop` is set."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            return process.communicate(timeout=POLL_SECONDS)
        except subprocess.TimeoutExpired as error:
            if stop is not None and stop.is_set():
                raise SandboxStopped from error
            if time.monotonic() > deadline:
                raise SmalltaleError(f"took more than {timeout_seconds} seconds") from error
