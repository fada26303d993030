"""An edition as a folder in the layout of the first hackathon's dataset repositories, out and in again.

    metadata.json                        one object a hand-in: user, name, file, received, class, parameters, model, scores
    submissions/USER/NAME_STAMP.csv      prompt, completion
    scores/USER/NAME_STAMP.csv           prompt, sample, judge, state, overall, calibrated, weight, one column a criterion

In: a database, or such a folder. Out: the other.
Beware: an old event has no accounts; each USER becomes a person nobody can sign in as, with a team of that name.
"""

from __future__ import annotations

import csv
import hashlib
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from smalltale.errors import FileProblem
from smalltale.files import new_file, provenance, read_json, refuse_foreign_folder, write_json
from smalltale.hackathon.editions import find_edition, rules_of
from smalltale.hackathon.export import defused
from smalltale.hackathon.intake import Checked, check_upload, completions
from smalltale.hackathon.jobs import queue_judging
from smalltale.hackathon.people import name_key
from smalltale.hackathon.problems import Problem
from smalltale.hackathon.scoring import qualified, settle
from smalltale.hackathon.store import Store, audit
from smalltale.hackathon.tables import (
    Completion,
    Edition,
    HandIn,
    Judgement,
    Member,
    Person,
    Prompt,
    Score,
    Team,
    Upload,
)

SCORE_COLUMNS = ("prompt", "sample", "judge", "state", "overall", "calibrated", "weight")
"""Of a file in scores/, before the criteria."""
STAMP = "%Y-%m-%d_%H-%M-%S"
NAMED = re.compile(r"(?P<name>.+)_(?P<stamp>\d{4}-?\d\d-?\d\d[_T-]?\d\d-?\d\d-?\d\d)$")


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


def import_folder(store: Store, edition: Edition, folder: Path) -> tuple[int, list[str]]:
    """Load every hand-in of a folder. Returns how many, and one line for each that was left out."""
    files = sorted((folder / "submissions").glob("*/*.csv"))
    if not files:
        raise FileProblem(f"{folder} holds no submissions/USER/NAME_STAMP.csv; check the folder")
    known = (
        {each["file"]: each for each in read_json(folder / "metadata.json")}
        if (folder / "metadata.json").exists()
        else {}
    )
    taken, refused = 0, []
    for path in files:
        about = known.get(path.relative_to(folder).as_posix(), {})
        try:
            checked = check_upload(
                store, edition, str(about.get("kind", "daily")), path.name, path.read_bytes()
            )
        except Problem as problem:
            refused.append(f"{path}: {problem}")
            continue
        if checked.errors:
            refused.append(f"{path}: {len(checked.errors)} problems, the first: {checked.errors[0]}")
            continue
        keep(store, edition, path, about, checked, folder / "scores" / path.parent.name / path.name)
        taken += 1
    return taken, refused


def keep(
    store: Store, edition: Edition, path: Path, about: dict[str, Any], checked: Checked, scores: Path
) -> None:
    """Write one old hand-in, with the scores beside it or queued for new ones. A second time changes nothing."""
    parts, content = NAMED.match(path.stem), path.read_bytes()
    received = when(about, parts, edition)
    with store.write() as session:
        digest = hashlib.sha256(content).hexdigest()
        person, team = owner(session, store, edition, path.parent.name, about)
        if session.scalar(
            select(HandIn.id).where(
                HandIn.team_id == team.id, HandIn.sha256 == digest, HandIn.received == received
            )
        ):
            return
        row = HandIn(
            edition_id=edition.id,
            team_id=team.id,
            person_id=person.id,
            prompt_set_id=checked.prompts.id,
            kind=str(about.get("kind", "daily")),
            slot=None,
            received=received,
            sha256=digest,
            weight_class=team.weight_class
            if "weight_class" not in about
            else rules_of(edition).weight_class(about["weight_class"]).name,
            counted_parameters=int(about.get("parameters") or 0),
            model_hash=str(about.get("model_hash", ""))[:64],
            declaration={"data": "loaded from an old event"},
            warnings=checked.warnings,
            state="queued",
        )
        session.add(row)
        session.flush()
        session.execute(insert(Completion), completions(row.id, checked))
        session.add(Upload(hand_in_id=row.id, name=path.name[:120], content=content))
        if not old_scores(session, edition, row, scores):
            queue_judging(session, store, row, edition.panel)
        audit(session, store.now(), "server", "hand-in loaded", f"hand-in {row.id}", file=path.name)


def when(about: dict[str, Any], parts: re.Match[str] | None, edition: Edition) -> datetime:
    """When an old hand-in came: as told, as its name says, or at the edition's end."""
    if "timestamp" in about:
        told = datetime.fromisoformat(about["timestamp"])
        return told if told.tzinfo else told.replace(tzinfo=UTC)
    if parts:
        digits = re.sub(r"\D", "", parts["stamp"])
        return datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    return edition.ends - timedelta(seconds=1)


def owner(
    session: Session, store: Store, edition: Edition, user: str, about: dict[str, Any]
) -> tuple[Person, Team]:
    """The person and team of an old hand-in, made where they are new."""
    handle = re.sub(r"[^a-z0-9_-]", "-", user.lower())[:39].strip("-_") or "writer"
    person = session.scalar(select(Person).where(Person.handle == handle))
    if person is None:
        person = Person(handle=handle, joined=store.now())
        session.add(person)
        session.flush()
    team = session.scalar(
        select(Team)
        .join(Member, Member.team_id == Team.id)
        .where(Member.person_id == person.id, Member.edition_id == edition.id)
    )
    if team is None:
        rules, hardware = rules_of(edition), str(about.get("hardware") or "not declared")[:200]
        name = str(about.get("submission_name") or handle)[:60]
        if session.scalar(
            select(Team.id).where(Team.edition_id == edition.id, Team.name_key == name_key(name))
        ):
            name = f"{name[:40]} ({handle[:15]})"
        slotted = about.get("weight_class") or rules.class_for_hardware(hardware).name
        team = Team(
            edition_id=edition.id,
            name=name,
            name_key=name_key(name),
            hardware=hardware,
            weight_class=slotted,
            confirmed=True,
            declared=edition.starts,
        )
        session.add(team)
        session.flush()
        session.add(Member(edition_id=edition.id, person_id=person.id, team_id=team.id, seat=0))
    return person, team


def old_scores(session: Session, edition: Edition, row: HandIn, path: Path) -> bool:
    """Load the scores beside an old hand-in. Returns False where there are none."""
    if not path.exists():
        return False
    place = {
        (text, sample): number
        for number, text, sample in session.execute(
            select(Completion.id, Prompt.text, Completion.sample)
            .join(Prompt, Prompt.id == Completion.prompt_id)
            .where(Completion.hand_in_id == row.id)
        )
    }
    rows = []
    with path.open(encoding="utf-8", newline="") as opened:
        for each in csv.DictReader(opened):
            scores = {
                name: float(value) for name, value in each.items() if name not in SCORE_COLUMNS and value
            }
            rows.append(
                {
                    "completion_id": place[each["prompt"], int(each["sample"])],
                    "panel": edition.panel,
                    "judge": each["judge"][:120],
                    "hand_in_id": row.id,
                    "state": each["state"]
                    if each["state"] in {"ok", "unparsable", "refused"}
                    else "unparsable",
                    **{name: number(each.get(name)) for name in ("overall", "calibrated", "weight")},
                    "scores": scores,
                    "age": None,
                    "words": "",
                }
            )
    if not rows:
        return False
    session.execute(insert(Judgement), rows)
    judges = sorted({str(each["judge"]) for each in rows})
    settle(session, row, edition.panel, judges, qualified=qualified(edition, judges))
    row.state = "judged"
    return True


def number(cell: str | None) -> float | None:
    """A cell of a scores file; None where it is empty or the file has no such column."""
    return float(cell) if cell else None
