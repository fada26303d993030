"""Read and write a judgements folder: judgements.parquet, meta.json and the journal.

Input: Judgements. Output: a table with one row per completion and judge, and back.
Note: the criteria are fields of the struct columns `scores` and `weighted`; they differ between rubrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from smalltale.files import atomic_file
from smalltale.judging.judgement import Judgement
from smalltale.ranking.entries import read_rows

TABLE = "judgements.parquet"
META = "meta.json"


def judgements_schema(criteria: Sequence[str]) -> pa.Schema:
    """The columns of judgements.parquet."""
    scores = pa.struct([(name, pa.float64()) for name in criteria])
    return pa.schema(
        [
            ("submission", pa.string()),
            ("prompt", pa.string()),
            ("sample", pa.int32()),
            ("completion", pa.string()),
            ("judge", pa.string()),
            ("rubric", pa.string()),
            ("rubric_hash", pa.string()),
            ("state", pa.string()),
            ("overall", pa.float64()),
            ("scores", scores),
            ("weighted", scores),
            ("calibrated", pa.float64()),
            ("weight", pa.float64()),
            ("age", pa.string()),
            ("words", pa.string()),
            ("reason", pa.string()),
            ("flags", pa.list_(pa.string())),
            ("overall_as_written", pa.float64()),
            ("calls", pa.int32()),
            ("input_tokens", pa.int64()),
            ("output_tokens", pa.int64()),
            ("key", pa.string()),
        ]
    )


def write_table(path: Path, rows: Sequence[dict[str, Any]], criteria: Sequence[str]) -> None:
    """Write judgements.parquet atomically."""
    for row in rows:
        for column in ("scores", "weighted"):
            row[column] = {name: row[column].get(name) for name in criteria}
        for column, value in row.items():
            if isinstance(value, str):  # a judge may escape a lone surrogate, which UTF-8 cannot encode
                row[column] = value.encode("utf-8", "replace").decode()
    with atomic_file(path) as temporary:
        pq.write_table(
            pa.Table.from_pylist(list(rows), schema=judgements_schema(criteria)),
            temporary,
            compression="zstd",
        )


def read_judgements(folder: Path) -> list[Judgement]:
    """The judgements of a folder written by `judge run`, in the order of the submission. Raises FileProblem."""
    return list(map(to_judgement, read_rows(folder)))


def to_judgement(row: dict[str, Any]) -> Judgement:
    """A row as a Judgement."""
    values = {name: row[name] for name in Judgement.__dataclass_fields__ if name in row}
    for column in ("scores", "weighted"):
        values[column] = {name: value for name, value in (row[column] or {}).items() if value is not None}
    return Judgement(**{**values, "flags": tuple(row["flags"] or ())})
