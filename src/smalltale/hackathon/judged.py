"""A judgements folder (written by judging) becomes one Entry of the standings.

In: the folder of `smalltale judge run`: judgements.parquet and meta.json. Out: standings.Entry.
Beware: meta.json says how many judgements a whole entry has and whether the judges are qualified; without it nothing ranks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from smalltale.errors import FileProblem
from smalltale.files import explained, read_json
from smalltale.hackathon.standings import Entry, StoryScores, summarise

NOT_CRITERIA = {"overall"}


def read_entry(folder: Path) -> Entry:
    """The entry in a judgements folder. Raises FileProblem where it is not one."""
    meta = read_json(folder / "meta.json")
    if not isinstance(meta, dict) or meta.get("kind") != "judgements":
        raise FileProblem(f"{folder} is not a judgements folder; make one with: smalltale judge run")
    path = folder / "judgements.parquet"
    try:
        with explained(path):
            rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except pa.ArrowInvalid as error:
        raise FileProblem(
            f"{path} is not whole Parquet; judge the entry anew with: smalltale judge run"
        ) from error
    declared = meta.get("submission") or {}
    declared = declared if isinstance(declared, dict) else {}
    stories = [story_scores(row) for row in rows]
    return summarise(
        str(declared.get("team") or meta.get("name") or folder.name),
        stories,
        expected=int(meta.get("expected") or len(stories)),
        qualified=bool(meta.get("qualified", False)),
        weight_class=str(declared.get("weight_class") or ""),
        counted_parameters=declared.get("counted_parameters"),
    )


def story_scores(row: dict[str, Any]) -> StoryScores:
    """One row of judgements.parquet."""
    scores = {name: value for name, value in dict(row.get("scores") or {}).items() if value is not None}
    overall = row.get("overall")
    return StoryScores(
        prompt=row["prompt"],
        sample=int(row.get("sample") or 0),
        judge=row["judge"],
        state=row["state"],
        overall=overall,
        scores={name: float(value) for name, value in scores.items() if name not in NOT_CRITERIA},
    )
