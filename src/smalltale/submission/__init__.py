"""The hand-in between the two sides: read and written (table.py), declared (declaration.py), checked (gate.py)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smalltale.submission.declaration import write_declaration
from smalltale.submission.gate import Verdict, as_seen, check_files, check_submission, normal, skeleton
from smalltale.submission.table import (
    Completion,
    Finding,
    export_for_spreadsheet,
    read_submission,
    refuse_other_forms,
    write_table,
)

__all__ = [
    "Completion",
    "Finding",
    "Verdict",
    "as_seen",
    "check_files",
    "check_submission",
    "export_for_spreadsheet",
    "normal",
    "read_submission",
    "refuse_other_forms",
    "skeleton",
    "write_submission",
]


def write_submission(path: Path, rows: Sequence[Completion], declaration: dict[str, Any]) -> None:
    """Write a hand-in as CSV, JSONL or Parquet by the path's ending, and `submission.json` beside it."""
    write_table(path, rows)
    write_declaration(path, declaration)
