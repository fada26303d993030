"""Export of an edition as a folder, in the layout of the first hackathon's dataset repositories.

    metadata.json                        one object per submission: user, name, file, time, class, parameters, model, scores
    submissions/USER/NAME_STAMP.csv      prompt, completion
    scores/USER/NAME_STAMP.csv           prompt, sample, judge, state, overall, calibrated, weight, one column per criterion

Input: a database. Output: such a folder; archive_import.py reads it back.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from smalltale.files import atomic_file, provenance_record, refuse_foreign_folder, write_json
from smalltale.server.database.models import (
    CompletionRow,
    JudgementRow,
    Person,
    Prompt,
    Score,
    Submission,
    Team,
)
from smalltale.server.database.session import Database
from smalltale.server.editions.editions import get_edition
from smalltale.server.exchange.tables import escape_formula

SCORE_COLUMNS = ("prompt", "sample", "judge", "state", "overall", "calibrated", "weight")
"""The columns of a file in scores/ before the criteria."""
STAMP = "%Y-%m-%d_%H-%M-%S"


def export_edition(database: Database, slug: str, folder: Path) -> int:
    """Export an edition's judged submissions. Returns their number. Raises SmalltaleError for a folder that is not ours."""
    refuse_foreign_folder(folder)
    began, entries = datetime.now(UTC), []
    with database.read() as session:
        edition = get_edition(session, slug)
        query = (
            select(Submission, Team, Person.handle)
            .join(Team, Team.id == Submission.team_id)
            .join(Person, Person.id == Submission.person_id)
            .where(
                Submission.edition_id == edition.id,
                Submission.state == "judged",
                Submission.disqualified.is_(None),
                Team.disqualified.is_(None),
            )
        )
        for submission, team, handle in session.execute(query.order_by(Submission.id)):
            file = f"{handle}/{file_stem(team)}_{submission.received.strftime(STAMP)}.csv"
            write_stories(session, submission, folder / "submissions" / file)
            write_scores(session, submission, edition.panel, folder / "scores" / file)
            score = session.get(Score, (submission.id, edition.panel, "all"))
            entries.append(metadata_entry(submission, team, handle, score, f"submissions/{file}"))
    write_json(folder / "metadata.json", entries)
    seconds = (datetime.now(UTC) - began).total_seconds()
    write_json(
        folder / "meta.json",
        {
            **provenance_record(counts={"hand_ins": len(entries)}, seconds=seconds),
            "kind": "event",
            "format": 1,
            "edition": slug,
        },
    )
    return len(entries)


def file_stem(team: Team) -> str:
    """A team's name as a part of a file name."""
    return re.sub(r"[^\w-]+", "-", team.name, flags=re.ASCII).strip("-") or f"team-{team.id}"


def metadata_entry(
    submission: Submission, team: Team, handle: str, score: Score | None, file: str
) -> dict[str, Any]:
    """A submission's object in metadata.json."""
    return {
        "username": handle,
        "submission_name": team.name,
        "file": file,
        "kind": submission.kind,
        "timestamp": submission.received.isoformat(timespec="seconds"),
        "weight_class": submission.weight_class,
        "parameters": submission.verified_parameters or submission.counted_parameters,
        "hardware": team.hardware,
        "model_hash": submission.model_hash,
        "score": score.mean if score else None,
        "criteria": score.criteria if score else {},
    }


def write_stories(session: Session, submission: Submission, path: Path) -> None:
    """A submission's stories. Cells that look like formulas stay as they are: programs read this file."""
    rows = session.execute(
        select(Prompt.text, CompletionRow.text)
        .join(Prompt, Prompt.id == CompletionRow.prompt_id)
        .where(CompletionRow.submission_id == submission.id)
        .order_by(Prompt.position, CompletionRow.sample)
    )
    write_csv(path, ["prompt", "completion"], rows)


def write_scores(session: Session, submission: Submission, panel: str, path: Path) -> None:
    """A submission's judgements, without the judges' comments."""
    rows = session.execute(
        select(Prompt.text, CompletionRow.sample, JudgementRow)
        .join(CompletionRow, CompletionRow.id == JudgementRow.completion_id)
        .join(Prompt, Prompt.id == CompletionRow.prompt_id)
        .where(JudgementRow.submission_id == submission.id, JudgementRow.panel == panel)
        .order_by(Prompt.position, CompletionRow.sample, JudgementRow.judge)
    ).all()
    criteria = list(dict.fromkeys(name for _, _, judgement in rows for name in judgement.scores))
    table = [
        [
            prompt,
            sample,
            escape_formula(judgement.judge),
            judgement.state,
            judgement.overall,
            judgement.calibrated,
            judgement.weight,
            *(judgement.scores.get(name) for name in criteria),
        ]
        for prompt, sample, judgement in rows
    ]
    write_csv(path, [*SCORE_COLUMNS, *criteria], table)


def write_csv(path: Path, header: list[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a CSV file atomically."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
