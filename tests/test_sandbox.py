"""The limited subprocess: no secrets, limits as one-line errors, nothing left running."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from smalltale.errors import SmalltaleError
from smalltale.sandbox import SandboxStopped, run_limited


def test_the_process_gets_no_secrets_and_does_not_reach_for_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("SMALLTALE_DATABASE", "postgresql://secret")
    variables = run_limited(["-c", "import os; print(sorted(os.environ))"])
    assert "'PATH'" in variables
    assert "'HF_HUB_OFFLINE'" in variables
    assert "OPENAI" not in variables
    assert "SMALLTALE" not in variables


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("while True: pass", "took more than 1 seconds"),
        ("bytearray(2 << 30)", r"stopped with status 1 \(memory limit 1 GiB\): MemoryError"),
        ("raise SystemExit('no such model')", "no such model"),
        ("pass", "stopped with status 0"),
    ],
)
def test_a_process_that_fails_or_reaches_a_limit_is_one_line(code: str, message: str) -> None:
    with pytest.raises(SmalltaleError, match=message):
        run_limited(["-c", code], timeout_seconds=1, memory_gibibytes=1)


def test_stopping_kills_the_process_and_its_children(tmp_path: Path) -> None:
    pid_path = tmp_path / "pid"
    child = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
    parent = (
        "import subprocess, sys, time; "
        f"subprocess.Popen([sys.executable, '-c', {child!r}, {str(pid_path)!r}]); time.sleep(60)"
    )
    stop = threading.Event()

    def stop_when_the_child_runs() -> None:
        for _ in range(500):
            if pid_path.exists() and pid_path.read_text():
                break
            time.sleep(0.02)
        stop.set()

    threading.Thread(target=stop_when_the_child_runs).start()
    with pytest.raises(SandboxStopped):
        run_limited(["-c", parent], stop=stop)
    for _ in range(50):
        state = subprocess.run(
            ["ps", "-o", "stat=", "-p", pid_path.read_text()], capture_output=True, text=True
        ).stdout
        if not state or state.startswith("Z"):
            return
        time.sleep(0.1)
    os.kill(int(pid_path.read_text()), 9)
    pytest.fail(f"the child process of {sys.executable} still runs")
