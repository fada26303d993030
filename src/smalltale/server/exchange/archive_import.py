"""A folder in the layout of exchange.py becomes an edition's hand-ins, so that an old event can be shown and judged again.

In: submissions/USER/NAME_STAMP.csv, metadata.json and scores/ where they are. Out: HandIn rows, judged or queued.
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

from smalltale.errors import FileProblem, SmalltaleError
from smalltale.files import explained, read_json
from smalltale.server.accounts.accounts import name_key
from smalltale.server.database.models import (
    Completion,
    Edition,
    HandIn,
    Judgement,
    Member,
    Person,
    Prompt,
    Team,
    Upload,
)
from smalltale.server.database.session import Store, audit
from smalltale.server.editions.editions import rules_of
from smalltale.server.exchange.archive_export import SCORE_COLUMNS
from smalltale.server.judging.queue import queue_judging
from smalltale.server.judging.scoring import qualified, settle
from smalltale.server.submissions.receive import Checked, check_upload, completions

NAMED = re.compile(r"(?P<name>.+)_(?P<stamp>\d{4}-?\d\d-?\d\d[_T-]?\d\d-?\d\d-?\d\d)$")


def import_folder(store: Store, edition: Edition, folder: Path) -> tuple[int, list[str]]:
    """Load every hand-in of a folder. Returns how many, and one line for each that was left out."""
    files = sorted((folder / "submissions").glob("*/*.csv"))
    if not files:
        raise FileProblem(f"{folder} holds no submissions/USER/NAME_STAMP.csv; check the folder")
    known, taken, refused = described(folder / "metadata.json"), 0, []
    for path in files:
        about = known.get(path.relative_to(folder).as_posix(), {})
        try:
            kind = str(about.get("kind", "daily"))
            checked = check_upload(store, edition, kind, path.name, path.read_bytes())
            if checked.errors:
                raise FileProblem(f"{len(checked.errors)} problems, the first: {checked.errors[0]}")
            keep(store, edition, path, about, checked, folder / "scores" / path.parent.name / path.name)
            taken += 1
        except SmalltaleError as problem:
            refused.append(f"{path}: {problem}")
    return taken, refused


def described(path: Path) -> dict[str, dict[str, Any]]:
    """What metadata.json says of each file. Raises FileProblem where it is not a list of objects."""
    if not path.exists():
        return {}
    entries = read_json(path)
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise FileProblem(f"{path} is not a list with an object for each hand-in; mend it, or move it away")
    return {str(each["file"]): each for each in entries if "file" in each}


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
            else rules_of(edition).weight_class(str(about["weight_class"])).name,
            counted_parameters=parameters(about),
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


def parameters(about: dict[str, Any]) -> int:
    """The counted parameters of an old hand-in, 0 where nobody told. Raises FileProblem."""
    told = about.get("parameters") or 0
    if not isinstance(told, int) or not 0 <= told < 2**31:
        raise FileProblem(f"metadata.json has parameters = {told!r}; write a whole number")
    return told


def when(about: dict[str, Any], parts: re.Match[str] | None, edition: Edition) -> datetime:
    """When an old hand-in came: as told, as its name says, or at the edition's end. Raises FileProblem."""
    told = about.get("timestamp") or (re.sub(r"\D", "", parts["stamp"]) if parts else None)
    if told is None:
        return edition.ends - timedelta(seconds=1)
    try:
        found = (
            datetime.fromisoformat(told)
            if "timestamp" in about
            else datetime.strptime(str(told), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
        )
    except (ValueError, TypeError) as error:
        raise FileProblem(f"{told!r} is no moment; write it like 2025-03-05T17:30:00+00:00") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def owner(
    session: Session, store: Store, edition: Edition, user: str, about: dict[str, Any]
) -> tuple[Person, Team]:
    """The person and team of an old hand-in, made where they are new."""
    handle = re.sub(r"[^a-z0-9_-]", "-", user.lower())[:39].strip("-_") or "writer"
    person = session.scalar(select(Person).where(Person.handle == handle))
    if person is not None and (person.password or person.provider):
        # Somebody who can sign in is not known to be the one of the old event.
        handle = f"{handle[:35]}-old"
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
        told = about.get("weight_class")
        slotted = rules.weight_class(str(told)) if told else rules.class_for_hardware(hardware)
        team = Team(
            edition_id=edition.id,
            name=name,
            name_key=name_key(name),
            hardware=hardware,
            weight_class=slotted.name,
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
    with explained(path), path.open(encoding="utf-8", newline="") as opened:
        for line, each in enumerate(csv.DictReader(opened), 2):
            try:
                rows.append(old_score(each, place) | {"panel": edition.panel, "hand_in_id": row.id})
            except (KeyError, ValueError, TypeError) as error:
                raise FileProblem(
                    f"{path}, line {line}: {error!r} is not of a scores file; mend the line, or remove the file to judge anew"
                ) from error
    if not rows:
        return False
    session.execute(insert(Judgement), rows)
    judges = sorted({str(each["judge"]) for each in rows})
    settle(session, row, edition.panel, judges, qualified=qualified(edition, judges))
    row.state = "judged"
    return True


def old_score(cells: dict[str, Any], place: dict[tuple[str, int], int]) -> dict[str, Any]:
    """One line of a scores file as a row. Raises KeyError, ValueError, TypeError where it is none."""
    told = {name: value for name, value in cells.items() if name not in SCORE_COLUMNS and value}
    return {
        "completion_id": place[cells["prompt"], int(cells["sample"])],
        "judge": cells["judge"][:120],
        "state": cells["state"] if cells["state"] in {"ok", "unparsable", "refused"} else "unparsable",
        **{name: number(cells.get(name)) for name in ("overall", "calibrated", "weight")},
        "scores": {name: float(value) for name, value in told.items()},
        "age": None,
        "words": "",
    }


def number(cell: str | None) -> float | None:
    """A cell of a scores file; None where it is empty or the file has no such column."""
    return float(cell) if cell else None
