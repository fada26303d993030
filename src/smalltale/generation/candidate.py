"""A finished completion, and an append-only journal of them from which a killed run resumes.

Input: candidates as they finish. Output: a JSONL file.
A journal belongs to one model, prompt set and configuration; its first line is their hash.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from smalltale.journal import Journal, lock_path, read_records


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


class CandidateJournal(Journal):
    """The finished candidates of a run, next to its submission file, so that a killed run resumes."""

    def __init__(self, path: Path, settings: Any) -> None:
        """settings: everything that must be the same for a run to resume, as plain data. Raises FileProblem."""
        super().__init__(path)
        run = {"run": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()}
        first, *records = read_records(path) or [None]
        if first != run:
            self.clear()
            self.append(run)
            records = []
        names = {field.name for field in fields(Candidate)}
        self.finished = [Candidate(**record) for record in records if set(record) == names]

    def add(self, candidate: Candidate) -> None:
        """Save a candidate; it is in the file before this returns."""
        self.append(asdict(candidate))

    def remove(self) -> None:
        """Close and delete the journal after a complete run."""
        self.close()
        self.path.unlink(missing_ok=True)
        lock_path(self.path).unlink(missing_ok=True)
