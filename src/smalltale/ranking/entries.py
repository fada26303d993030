"""A judgements folder (written by judging) becomes one Entry of the standings.

In: the folder of `smalltale judge run`: judgements.parquet and meta.json. Out: standings.Entry.
Beware: meta.json says how many judgements a whole entry has and whether the judges are qualified; without it nothing ranks.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from smalltale.errors import FileProblem
from smalltale.files import read_json, translate_os_errors
from smalltale.ranking.standings import Entry, JudgeScores, summarise_entry
from smalltale.ranking.statistics import clustered_interval

NOT_CRITERIA = {"overall"}


def read_entry(folder: Path) -> Entry:
    """The entry in a judgements folder. Raises FileProblem where it is not one."""
    meta = read_json(folder / "meta.json")
    if not isinstance(meta, dict) or meta.get("kind") != "judgements":
        raise FileProblem(f"{folder} is not a judgements folder; make one with: smalltale judge run")
    rows = read_rows(folder)
    declared = meta.get("submission") or {}
    declared = declared if isinstance(declared, dict) else {}
    stories = [parse_row(row) for row in rows]
    return summarise_entry(
        str(declared.get("team") or meta.get("name") or folder.name),
        stories,
        expected=int(meta.get("expected") or len(stories)),
        qualified=bool(meta.get("qualified", False)),
        weight_class=str(declared.get("weight_class") or ""),
        counted_parameters=declared.get("counted_parameters"),
    )


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of judgements.parquet. Raises FileProblem where the file is missing or cut short."""
    path = folder / "judgements.parquet"
    try:
        with translate_os_errors(path):
            rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except pa.ArrowInvalid as error:
        raise FileProblem(
            f"{path} is not whole Parquet; judge the entry anew with: smalltale judge run"
        ) from error
    return rows


def read_criterion_intervals(folder: Path) -> list[tuple[str, float, float, float]]:
    """Each criterion with its mean and its 95 % interval, prompts resampled; those never scored are left out."""
    by_criterion: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for story in map(parse_row, read_rows(folder)):
        for criterion, score in story.scores.items():
            by_criterion[criterion][story.prompt].append(score)
    found = []
    for criterion, prompts in by_criterion.items():
        interval = clustered_interval(prompts)
        if interval is not None:
            low, high = (interval.mean if bound is None else bound for bound in (interval.low, interval.high))
            found.append((criterion, interval.mean, low, high))
    return found


def parse_row(row: dict[str, Any]) -> JudgeScores:
    """One row of judgements.parquet."""
    scores = {name: value for name, value in dict(row.get("scores") or {}).items() if value is not None}
    calibrated, overall = row.get("calibrated"), row.get("overall")
    return JudgeScores(
        prompt=row["prompt"],
        sample=int(row.get("sample") or 0),
        judge=row["judge"],
        state=row["state"],
        overall=overall if calibrated is None else calibrated,
        weight=1.0 if row.get("weight") is None else row["weight"],
        scores={name: float(value) for name, value in scores.items() if name not in NOT_CRITERIA},
    )
