"""Read a judgements folder as one Entry of the standings.

Input: a folder of `smalltale judge run`: judgements.parquet and meta.json. Output: standings.Entry.
Note: the expected number of judgements and whether the judges are qualified come from meta.json.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from smalltale.errors import FileProblem
from smalltale.files import read_json, translate_os_errors
from smalltale.ranking.standings import Entry, JudgeScores, summarise_entry
from smalltale.ranking.statistics import clustered_interval, group_by_key


def read_entry(folder: Path) -> Entry:
    """Read the entry of a judgements folder. Raises FileProblem."""
    meta, rows = read_meta(folder), read_rows(folder)
    declaration = meta.get("submission")
    declaration = declaration if isinstance(declaration, dict) else {}
    entry = summarise_entry(
        str(declaration.get("team") or meta.get("name") or folder.name),
        map(to_judge_scores, rows),
        expected=int(meta.get("expected") or len(rows)),
        qualified=bool(meta.get("qualified", False)),
    )
    return replace(
        entry,
        weight_class=str(declaration.get("weight_class") or ""),
        counted_parameters=declaration.get("counted_parameters"),
    )


def read_meta(folder: Path) -> dict[str, Any]:
    """The meta.json of a judgements folder. Raises FileProblem."""
    meta = read_json(folder / "meta.json")
    if not isinstance(meta, dict) or meta.get("kind") != "judgements":
        raise FileProblem(f"{folder} is not a judgements folder; create one with: smalltale judge run")
    return meta


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of judgements.parquet, which include the completions. Raises FileProblem."""
    read_meta(folder)
    path = folder / "judgements.parquet"
    try:
        with translate_os_errors(path):
            rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except pa.ArrowInvalid as error:
        raise FileProblem(
            f"{path} is not a complete Parquet file; judge the entry again with: smalltale judge run"
        ) from error
    return rows


def read_criterion_intervals(folder: Path) -> list[tuple[str, float, float, float]]:
    """(criterion, mean, low, high) of each scored criterion, with its 95 % interval, prompts resampled."""
    scores_by_criterion = group_by_key(
        (criterion, (row.prompt, score))
        for row in map(to_judge_scores, read_rows(folder))
        for criterion, score in row.scores.items()
    )
    intervals = []
    for criterion, scores in scores_by_criterion.items():
        interval = clustered_interval(group_by_key(scores))
        if interval is not None:
            intervals.append((criterion, interval.mean, *interval.bounds()))
    return intervals


def to_judge_scores(row: dict[str, Any]) -> JudgeScores:
    """A row of judgements.parquet as JudgeScores."""
    scores = (row.get("scores") or {}).items()
    calibrated, overall = row.get("calibrated"), row.get("overall")
    return JudgeScores(
        prompt=row["prompt"],
        sample=int(row.get("sample") or 0),
        judge=row["judge"],
        state=row["state"],
        overall=overall if calibrated is None else calibrated,
        weight=1.0 if row.get("weight") is None else row["weight"],
        scores={name: float(value) for name, value in scores if value is not None and name != "overall"},
    )
