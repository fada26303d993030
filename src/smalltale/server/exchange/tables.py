"""Leaderboards and stories as CSV, JSON and Parquet.

Input: rows of plain values. Output: bytes.
Pitfall: a spreadsheet evaluates a cell that begins like a formula, so in CSV such text gets a leading apostrophe.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from smalltale.server.database.models import JudgementRow
from smalltale.server.leaderboard.leaderboard import Leaderboard
from smalltale.server.submissions.visibility import StoryView

FORMATS = {
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "parquet": "application/vnd.apache.parquet",
}


def leaderboard_table(leaderboard: Leaderboard) -> list[dict[str, Any]]:
    """A leaderboard as rows of plain values."""
    table = []
    for row in leaderboard.rows:
        standing, entry = row.standing, row.standing.entry
        table.append(
            {
                "rank": standing.rank,
                "tied": standing.tied,
                "team": entry.name,
                "weight_class": entry.weight_class,
                "hardware": row.hardware,
                "counted_parameters": entry.counted_parameters,
                "verified": entry.verified,
                "mean": entry.mean,
                "low": entry.low,
                "high": entry.high,
                **{criterion: entry.criteria.get(criterion) for criterion in leaderboard.criteria},
                "disagreement": entry.disagreement,
                "judged": entry.judged,
                "expected": entry.expected,
                "hand_in": row.submission_id,
                "hand_ins": row.submission_count,
                "received": row.received.isoformat(timespec="seconds"),
                "qualified": entry.qualified,
                "note": standing.note,
            }
        )
    return table


def story_table(stories: Sequence[StoryView]) -> list[dict[str, Any]]:
    """Stories as rows of plain values: one row per judgement, and one for a story without judgements."""
    criteria = list(
        dict.fromkeys(
            name for story in stories for judgement in story.judgements for name in judgement.scores
        )
    )
    table = []
    for story in stories:
        judgements: Sequence[JudgementRow | None] = story.judgements or [None]
        for judgement in judgements:
            scores = judgement.scores if judgement else {}
            table.append(
                {
                    "prompt": story.prompt,
                    "sample": story.sample,
                    "completion": story.text,
                    "mean": story.mean,
                    "judge": judgement.judge if judgement else None,
                    "state": judgement.state if judgement else None,
                    "overall": judgement.overall if judgement else None,
                    **{criterion: scores.get(criterion) for criterion in criteria},
                    "age": judgement.age if judgement else None,
                    "words": judgement.words if judgement else None,
                }
            )
    return table


def encode_table(rows: Sequence[dict[str, Any]], file_format: str) -> bytes:
    """Rows in one of FORMATS."""
    if file_format == "json":
        return json.dumps(list(rows), ensure_ascii=False, indent=1).encode()
    if file_format == "parquet":
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(list(rows)), buffer)
        return bytes(buffer.getvalue())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(rows[0] if rows else [])
    for row in rows:
        writer.writerow([escape_formula(value) for value in row.values()])
    return text.getvalue().encode("utf-8-sig")


def escape_formula(value: Any) -> Any:
    """Prefix text that a spreadsheet would evaluate as a formula with an apostrophe."""
    if isinstance(value, str) and value.lstrip(" ")[:1] in {"=", "+", "-", "@", "\t", "\r", "\n"}:
        return f"'{value}"
    return value
