"""A submission file: its table (table.py), its declaration (declaration.py), and the check of both (validate.py)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smalltale.submission.declaration import write_declaration
from smalltale.submission.table import (
    Completion,
    SubmissionIssue,
    check_file_extension,
    export_for_spreadsheet,
    read_submission,
    write_table,
)
from smalltale.submission.validate import (
    ValidationResult,
    check_submission,
    check_submission_files,
    confusable_skeleton,
    normalize_prompt,
    normalize_visible_text,
)

__all__ = [
    "Completion",
    "SubmissionIssue",
    "ValidationResult",
    "check_file_extension",
    "check_submission",
    "check_submission_files",
    "confusable_skeleton",
    "export_for_spreadsheet",
    "normalize_prompt",
    "normalize_visible_text",
    "read_submission",
    "write_submission",
]


def write_submission(path: Path, rows: Sequence[Completion], declaration: dict[str, Any]) -> None:
    """Write a submission as CSV, JSONL or Parquet by the path's extension, and `submission.json` next to it."""
    write_table(path, rows)
    write_declaration(path, declaration)
