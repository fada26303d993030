"""Standings and stories as CSV, JSON and Parquet.

In: rows of plain values. Out: bytes.
Beware: a spreadsheet runs a cell that begins like a formula, so in CSV such text gets a leading apostrophe.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from smalltale.server.database.models import Judgement
from smalltale.server.leaderboard.leaderboard import Board
from smalltale.server.submissions.visibility import ShownStory

FORMATS = {
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "parquet": "application/vnd.apache.parquet",
}


def board_rows(board: Board) -> list[dict[str, Any]]:
    """A leaderboard as plain rows."""
    rows = []
    for line in board.lines:
        entry = line.standing.entry
        rows.append(
            {
                "rank": line.standing.rank,
                "tied": line.standing.tied,
                "team": line.team,
                "weight_class": line.weight_class,
                "hardware": line.hardware,
                "counted_parameters": line.counted_parameters,
                "verified": line.verified,
                "mean": entry.mean,
                "low": entry.low,
                "high": entry.high,
                **{name: entry.criteria.get(name) for name in board.criteria},
                "disagreement": entry.disagreement,
                "judged": entry.judged,
                "expected": entry.expected,
                "hand_in": line.hand_in_id,
                "hand_ins": line.hand_ins,
                "received": line.received.isoformat(timespec="seconds"),
                "qualified": entry.qualified,
                "note": line.standing.note,
            }
        )
    return rows


def story_rows(stories: Sequence[ShownStory]) -> list[dict[str, Any]]:
    """Stories as plain rows: one for each judge that said something of one, else one."""
    criteria = list(dict.fromkeys(name for each in stories for said in each.said for name in said.scores))
    rows = []
    for each in stories:
        story = {"prompt": each.prompt, "sample": each.sample, "completion": each.text, "mean": each.mean}
        heard: Sequence[Judgement | None] = each.said or [None]
        for said in heard:
            rows.append(
                {
                    **story,
                    "judge": said.judge if said else None,
                    "state": said.state if said else None,
                    "overall": said.overall if said else None,
                    **{name: said.scores.get(name) if said else None for name in criteria},
                    "age": said.age if said else None,
                    "words": said.words if said else None,
                }
            )
    return rows


def written(rows: Sequence[dict[str, Any]], form: str) -> bytes:
    """Rows in one of FORMATS."""
    if form == "json":
        return json.dumps(list(rows), ensure_ascii=False, indent=1).encode()
    if form == "parquet":
        out = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(list(rows)), out)
        return bytes(out.getvalue())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(rows[0] if rows else [])
    for row in rows:
        writer.writerow([defused(value) for value in row.values()])
    return text.getvalue().encode("utf-8-sig")


def defused(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula, with an apostrophe before it."""
    if isinstance(value, str) and value.lstrip(" ")[:1] in {"=", "+", "-", "@", "\t", "\r", "\n"}:
        return f"'{value}"
    return value
