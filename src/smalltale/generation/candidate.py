"""A finished completion, and an append-only journal of them from which a killed run resumes.

Input: candidates as they finish. Output: a JSONL file.
A journal belongs to one model, prompt set and configuration; its first line is their hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TextIO

from smalltale.files import translate_os_errors


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One finished completion, before the best are selected."""

    prompt: int
    """Index of the prompt."""
    sample: int
    text: str
    tokens: int
    mean_log_probability: float
    ended: str
    """story: the model ended it; length: it reached the maximum length; loop: the loop guard stopped it."""


class Journal:
    """The candidates of a run beside its hand-in, a line each."""

    def __init__(self, path: Path, told: Any) -> None:
        """told: everything that must be the same for a run to go on, as plain data."""
        self.path = path
        self.mark = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
        self.finished = self.read()
        with translate_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.opened: TextIO = path.open("w", encoding="utf-8", newline="\n")
        self.write_line({"run": self.mark})
        for each in self.finished:
            self.keep(each)

    def read(self) -> Sequence[Candidate]:
        """What an earlier run of the same kind left; a line cut short by its end is left out."""
        if not self.path.is_file():
            return []
        found = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        if not found or found[0] != {"run": self.mark}:
            return []
        names = {each.name for each in fields(Candidate)}
        return [Candidate(**each) for each in found[1:] if isinstance(each, dict) and set(each) == names]

    def keep(self, candidate: Candidate) -> None:
        """Write a candidate down, at once."""
        self.write_line(asdict(candidate))

    def write_line(self, value: dict[str, Any]) -> None:
        self.opened.write(json.dumps(value, ensure_ascii=False) + "\n")
        self.opened.flush()

    def close(self) -> None:
        """Leave the file for the next run."""
        self.opened.close()

    def remove(self) -> None:
        """The run is whole."""
        self.close()
        self.path.unlink(missing_ok=True)
