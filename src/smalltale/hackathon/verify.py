"""Verify a finalist's model: the declared file, its counted parameters, in a subprocess with limits.

In: a hand-in and the checkpoint folder its team sent. Out: the verified count in the database.
Beware: a folder with anything but safetensors and plain text, or with links, is refused before it is opened.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

from smalltale.errors import SmalltaleError
from smalltale.files import sha256_of
from smalltale.hackathon.editions import rules_of
from smalltale.hackathon.problems import missing
from smalltale.hackathon.store import Store, audit
from smalltale.hackathon.tables import Edition, HandIn

HARMLESS = {".safetensors", ".json", ".jsonl", ".txt", ".md"}
PASSED_ON = {"PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV", "OMP_NUM_THREADS"}
"""What the subprocess may know of our environment: no database URL, no sign-in secret, no judge's key."""
SECONDS = 300
GIBIBYTES = 8


def verify(store: Store, organiser: str, hand_in_id: int, checkpoint: Path) -> int:
    """Count a model as declared. Returns its counted parameters. Raises SmalltaleError where it is another, or too large."""
    with store.read() as session:
        row = session.get(HandIn, hand_in_id)
        if row is None:
            raise missing("hand-in")
        rules = rules_of(session.get_one(Edition, row.edition_id))
    refuse_risky(checkpoint)
    found = sha256_of(checkpoint / "model.safetensors")
    if found != row.model_hash:
        raise SmalltaleError(
            f"model.safetensors has SHA-256 {found}, declared was {row.model_hash}; ask the team for the model it handed in with"
        )
    counted = count(checkpoint)
    limit = rules.weight_class(row.weight_class).max_parameters
    with store.write() as session:
        kept = session.get_one(HandIn, hand_in_id)
        kept.verified_parameters = counted
        session.get_one(Edition, kept.edition_id).revision += 1
        audit(
            session,
            store.now(),
            organiser,
            "parameters verified",
            f"hand-in {hand_in_id}",
            counted=counted,
            claimed=row.counted_parameters,
            limit=limit,
        )
    if counted > limit:
        raise SmalltaleError(
            f"hand-in {hand_in_id} has {counted:,} counted parameters, {row.weight_class} allows {limit:,}; disqualify it or move it"
        )
    return counted


def refuse_risky(checkpoint: Path) -> None:
    """Let only what cannot run code through, and nothing that leads elsewhere. Raises SmalltaleError."""
    inside = sorted(checkpoint.rglob("*"))
    links = [each.name for each in inside if each.is_symlink()]
    if links:
        raise SmalltaleError(
            f"{checkpoint} holds links ({', '.join(links[:5])}); put the files themselves there"
        )
    risky = [each.name for each in inside if not each.is_dir() and each.suffix.lower() not in HARMLESS]
    if risky:
        raise SmalltaleError(
            f"{checkpoint} holds {', '.join(risky[:5])}, which may run code; keep model.safetensors, config.json and the tokenizer alone"
        )


def count(checkpoint: Path) -> int:
    """What `smalltale count` says, in a process that can neither hang nor eat the machine."""

    def limits() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_DATA, (GIBIBYTES << 30, GIBIBYTES << 30))

    command = [sys.executable, "-m", "smalltale", "count", str(checkpoint), "--json"]
    known = {name: value for name, value in os.environ.items() if name in PASSED_ON}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, preexec_fn=limits, env=known
        )
    except subprocess.TimeoutExpired as error:
        raise SmalltaleError(
            f"counting {checkpoint} took more than {SECONDS} seconds; look at the model by hand"
        ) from error
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it was stopped by its limits"])[-1]
        raise SmalltaleError(f"counting {checkpoint} failed: {said}")
    return int(json.loads(done.stdout)["counted"])
