"""An edition as a folder in the layout of the first hackathon's dataset repositories, out and in again.

    metadata.json                        one object a hand-in: user, name, file, received, class, parameters, model, scores
    submissions/USER/NAME_STAMP.csv      prompt, completion
    scores/USER/NAME_STAMP.csv           prompt, sample, judge, state, overall, calibrated, weight, one column a criterion

In: a database, or such a folder. Out: the other.
Beware: an old event has no accounts; each USER becomes a person nobody can sign in as, with a team of that name.
"""

from __future__ import annotations

import csv
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from smalltale.files import new_file, provenance, refuse_foreign_folder, write_json
from smalltale.server.database.models import Completion, HandIn, Judgement, Person, Prompt, Score, Team
from smalltale.server.database.session import Store
from smalltale.server.editions.editions import find_edition
from smalltale.server.exchange.tables import defused

SCORE_COLUMNS = ("prompt", "sample", "judge", "state", "overall", "calibrated", "weight")
"""Of a file in scores/, before the criteria."""
STAMP = "%Y-%m-%d_%H-%M-%S"


def export_event(store: Store, slug: str, out: Path) -> int:
    """Write an edition's judged hand-ins. Returns how many. Refuses a folder that is not ours."""
    refuse_foreign_folder(out)
    began, entries = datetime.now(UTC), []
    with store.read() as session:
        edition = find_edition(session, slug)
        query = (
            select(HandIn, Team, Person.handle)
            .join(Team, Team.id == HandIn.team_id)
            .join(Person, Person.id == HandIn.person_id)
            .where(
                HandIn.edition_id == edition.id,
                HandIn.state == "judged",
                HandIn.disqualified.is_(None),
                Team.disqualified.is_(None),
            )
        )
        for hand_in, team, handle in session.execute(query.order_by(HandIn.id)):
            safe = re.sub(r"[^\w-]+", "-", team.name, flags=re.ASCII).strip("-") or f"team-{team.id}"
            file = f"{handle}/{safe}_{hand_in.received.strftime(STAMP)}.csv"
            write_stories(session, hand_in, out / "submissions" / file)
            write_scores(session, hand_in, edition.panel, out / "scores" / file)
            score = session.get(Score, (hand_in.id, edition.panel, "all"))
            entries.append(
                {
                    "username": handle,
                    "submission_name": team.name,
                    "file": f"submissions/{file}",
                    "kind": hand_in.kind,
                    "timestamp": hand_in.received.isoformat(timespec="seconds"),
                    "weight_class": hand_in.weight_class,
                    "parameters": hand_in.verified_parameters or hand_in.counted_parameters,
                    "hardware": team.hardware,
                    "model_hash": hand_in.model_hash,
                    "score": score.mean if score else None,
                    "criteria": score.criteria if score else {},
                }
            )
    write_json(out / "metadata.json", entries)
    write_json(
        out / "meta.json",
        {
            **provenance(
                counts={"hand_ins": len(entries)}, seconds=(datetime.now(UTC) - began).total_seconds()
            ),
            "kind": "event",
            "format": 1,
            "edition": slug,
        },
    )
    return len(entries)


def write_stories(session: Session, hand_in: HandIn, path: Path) -> None:
    """A hand-in's stories; formula cells stay as they are, for they are read by programs."""
    rows = session.execute(
        select(Prompt.text, Completion.text)
        .join(Prompt, Prompt.id == Completion.prompt_id)
        .where(Completion.hand_in_id == hand_in.id)
        .order_by(Prompt.position, Completion.sample)
    )
    write_csv(path, ["prompt", "completion"], [list(row) for row in rows])


def write_scores(session: Session, hand_in: HandIn, panel: str, path: Path) -> None:
    """What was said of a hand-in, without the words."""
    rows = session.execute(
        select(Prompt.text, Completion.sample, Judgement)
        .join(Completion, Completion.id == Judgement.completion_id)
        .join(Prompt, Prompt.id == Completion.prompt_id)
        .where(Judgement.hand_in_id == hand_in.id, Judgement.panel == panel)
        .order_by(Prompt.position, Completion.sample, Judgement.judge)
    ).all()
    criteria = list(dict.fromkeys(name for row in rows for name in row[2].scores))
    table = [
        [
            row[0],
            row[1],
            defused(row[2].judge),
            row[2].state,
            row[2].overall,
            row[2].calibrated,
            row[2].weight,
            *(row[2].scores.get(name) for name in criteria),
        ]
        for row in rows
    ]
    write_csv(path, [*SCORE_COLUMNS, *criteria], table)


def write_csv(path: Path, heading: list[str], rows: list[list[Any]]) -> None:
    """One CSV file, whole or not at all."""
    with new_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(heading)
        writer.writerows(rows)
