"""Look at a model that somebody sent, in a process with limits that knows no secret.

In: a folder of plain files and what was declared of it. Out: a Look: verified, contradicted or unproven, and why.
Beware: only the files named here are taken, and never a pickle; nothing of the web or the database is imported.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smalltale.errors import SmalltaleError
from smalltale.files import write_json
from smalltale.submission import Completion, write_submission

WEIGHTS_FILE = "model.safetensors"
REQUIRED_FILES = (WEIGHTS_FILE, "config.json", "tokenizer.json")
MODEL_FILES = (
    *REQUIRED_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
)
"""Everything a model may be sent as: weights that are only numbers, and JSON."""
PASSED_ON = {"PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV", "OMP_NUM_THREADS"}
"""What the subprocess may know of our environment: no database URL, no sign-in secret, no judge's key."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
SECONDS = 300
STORIES_SECONDS = 1800
GIBIBYTES = 8
VERDICTS = {"pass": "verified", "fail": "contradicted", "unproven": "unproven"}


class SandboxStopped(Exception):
    """The work was taken away while the process ran; the process is dead."""


@dataclass(frozen=True, kw_only=True)
class VerificationResult:
    """verified, contradicted or unproven, and why."""

    verdict: str
    counted: int | None
    reasons: Sequence[str]
    stories: dict[str, Any] = field(default_factory=dict)
    """What `smalltale plausible` says of the stories; empty where nobody asked."""


def check_model_folder(folder: Path) -> None:
    """Raise SmalltaleError where a folder lacks a file that is needed or one of a model's files leads elsewhere."""
    missing = [name for name in REQUIRED_FILES if not (folder / name).is_file()]
    if missing:
        raise SmalltaleError(
            f"{folder} has no {' and no '.join(missing)}; a model is sent as {', '.join(REQUIRED_FILES)}"
        )
    links = [name for name in MODEL_FILES if (folder / name).is_symlink()]
    if links:
        raise SmalltaleError(f"{folder} holds links ({', '.join(links)}); put the files themselves there")


def verify_model(
    folder: Path,
    claim: dict[str, Any],
    rules: str,
    *,
    frozen: Sequence[str] = (),
    stop: threading.Event | None = None,
) -> VerificationResult:
    """What `smalltale count --verify` says of a claim under an edition's rules (TOML)."""
    write_json(folder / "submission.json", claim)
    (folder / "rules.toml").write_text(rules, encoding="utf-8")
    arguments = ["count", str(folder), "--verify", str(folder / "submission.json"), "--json"]
    arguments += ["--rules", str(folder / "rules.toml")]
    for name in frozen:
        arguments += ["--frozen", name]
    try:
        said = json.loads(run_limited(arguments, stop=stop))
        return VerificationResult(
            verdict=VERDICTS[said["verdict"]], counted=said["counted"], reasons=said["reasons"]
        )
    except (ValueError, KeyError, TypeError):
        return VerificationResult(verdict="unproven", counted=None, reasons=["counting gave no verdict"])
    except SmalltaleError as error:
        return VerificationResult(verdict="unproven", counted=None, reasons=[f"counting {error}"])


def check_stories(
    folder: Path, rows: Sequence[Completion], sampling: str, *, stop: threading.Event | None = None
) -> dict[str, Any]:
    """What `smalltale plausible` says of a hand-in's stories under a folder's model."""
    stories = folder / "stories" / "hand-in.jsonl"
    write_submission(stories, rows, {})
    # "=" keeps settings that begin with a dash from being read as an option.
    arguments = ["plausible", str(folder), "--stories", str(stories), f"--sampling={sampling}", "--json"]
    try:
        said = json.loads(run_limited(arguments, seconds=STORIES_SECONDS, stop=stop))
        return said if isinstance(said, dict) and "verdict" in said else unproven("gave no verdict")
    except ValueError:
        return unproven("gave no verdict")
    except SmalltaleError as error:
        return unproven(str(error))


def unproven(why: str) -> dict[str, Any]:
    return {"verdict": "unproven", "reasons": [f"the check of the stories {why}"]}


def run_limited(
    arguments: Sequence[str],
    *,
    seconds: int = SECONDS,
    gibibytes: int = GIBIBYTES,
    stop: threading.Event | None = None,
) -> str:
    """The standard output of one of our commands, run where it can neither hang, eat the machine nor leave anything running.

    Raises SmalltaleError where it fails or reaches a limit, Stopped where `stop` is set first.
    """
    # A shell sets the limits: Python code between fork and exec may hang where other threads hold locks.
    limits = f'ulimit -t {2 * seconds} && ulimit -d {gibibytes << 20} && exec "$@"'
    known = {name: value for name, value in os.environ.items() if name in PASSED_ON} | OFFLINE
    with subprocess.Popen(
        ["/bin/sh", "-c", limits, "sh", sys.executable, "-m", "smalltale", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=known,
        start_new_session=True,
    ) as process:
        try:
            out, words = waited(process, seconds, stop)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    # 1 is the answer "it does not verify"; its words are on standard output.
    if process.returncode not in {0, 1} or not out.strip():
        last = (words.strip().splitlines() or [f"stopped with status {process.returncode}"])[-1]
        raise SmalltaleError(f"failed: {last[:300]}")
    return out


def waited(process: subprocess.Popen[str], seconds: int, stop: threading.Event | None) -> tuple[str, str]:
    """What a process said. Raises SmalltaleError after so many seconds, Stopped where it is no longer wanted."""
    end = time.monotonic() + seconds
    while True:
        try:
            return process.communicate(timeout=0.5)
        except subprocess.TimeoutExpired as error:
            if stop is not None and stop.is_set():
                raise SandboxStopped from error
            if time.monotonic() > end:
                raise SmalltaleError(f"took more than {seconds} seconds") from error
