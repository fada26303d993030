"""Import of a folder in the layout of archive_export.py, so that an old event can be shown and judged again.

Input: submissions/USER/NAME_STAMP.csv, and metadata.json and scores/ if present. Output: Submission rows, judged or queued.
Note: an old event has no accounts; each USER becomes a person without a password, with a team of that name.
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
from smalltale.files import read_json, translate_os_errors
from smalltale.server.accounts.accounts import name_key
from smalltale.server.database.models import (
    CompletionRow,
    Edition,
    JudgementRow,
    Person,
    Prompt,
    Submission,
    SubmissionFile,
    Team,
    TeamMember,
)
from smalltale.server.database.session import Database, append_audit
from smalltale.server.editions.editions import get_rules
from smalltale.server.exchange.archive_export import SCORE_COLUMNS
from smalltale.server.judging.queue import queue_judging
from smalltale.server.judging.scoring import is_panel_qualified, score_submission
from smalltale.server.submissions.receive import CheckedUpload, check_upload, completion_rows

FILE_NAME = re.compile(r"(?P<name>.+)_(?P<stamp>\d{4}-?\d\d-?\d\d[_T-]?\d\d-?\d\d-?\d\d)$")


def import_archive(database: Database, edition: Edition, folder: Path) -> tuple[int, list[str]]:
    """Import every submission of a folder. Returns their number, and one line per submission that was skipped."""
    paths = sorted((folder / "submissions").glob("*/*.csv"))
    if not paths:
        raise FileProblem(f"{folder} has no submissions/USER/NAME_STAMP.csv; check the folder")
    metadata_by_file = read_metadata(folder / "metadata.json")
    imported, skipped = 0, []
    for path in paths:
        metadata = metadata_by_file.get(path.relative_to(folder).as_posix(), {})
        scores_path = folder / "scores" / path.parent.name / path.name
        try:
            kind = str(metadata.get("kind", "daily"))
            checked = check_upload(database, edition, kind, path.name, path.read_bytes())
            if checked.errors:
                raise FileProblem(f"{len(checked.errors)} problems, the first: {checked.errors[0]}")
            import_submission(database, edition, path, metadata, checked, scores_path)
            imported += 1
        except SmalltaleError as problem:
            skipped.append(f"{path}: {problem}")
    return imported, skipped


def read_metadata(path: Path) -> dict[str, dict[str, Any]]:
    """The objects of metadata.json by file. Raises FileProblem unless it is a list of objects."""
    if not path.exists():
        return {}
    entries = read_json(path)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise FileProblem(f"{path} is not a list with an object per submission; correct it, or move it away")
    return {str(entry["file"]): entry for entry in entries if "file" in entry}


def import_submission(
    database: Database,
    edition: Edition,
    path: Path,
    metadata: dict[str, Any],
    checked: CheckedUpload,
    scores_path: Path,
) -> None:
    """Store one submission with its scores, or queue it for judging. Importing it a second time changes nothing."""
    content = path.read_bytes()
    sha256, received = hashlib.sha256(content).hexdigest(), parse_received(path, metadata, edition)
    with database.write() as session:
        person, team = find_or_create_owner(session, database, edition, path.parent.name, metadata)
        is_imported = select(Submission.id).where(
            Submission.team_id == team.id, Submission.sha256 == sha256, Submission.received == received
        )
        if session.scalar(is_imported):
            return
        weight_class = team.weight_class
        if "weight_class" in metadata:
            weight_class = get_rules(edition).weight_class(str(metadata["weight_class"])).name
        submission = Submission(
            edition_id=edition.id,
            team_id=team.id,
            person_id=person.id,
            prompt_set_id=checked.prompt_set.id,
            kind=str(metadata.get("kind", "daily")),
            slot=None,
            received=received,
            sha256=sha256,
            weight_class=weight_class,
            counted_parameters=parse_parameters(metadata),
            model_hash=str(metadata.get("model_hash", ""))[:64],
            declaration={"data": "loaded from an old event"},
            warnings=checked.warnings,
            state="queued",
        )
        session.add(submission)
        session.flush()
        session.execute(insert(CompletionRow), completion_rows(submission.id, checked))
        session.add(SubmissionFile(submission_id=submission.id, name=path.name[:120], content=content))
        if not import_scores(session, edition, submission, scores_path):
            queue_judging(session, database, submission, edition.panel)
        append_audit(
            session, database.now(), "server", "hand-in loaded", f"hand-in {submission.id}", file=path.name
        )


def parse_parameters(metadata: dict[str, Any]) -> int:
    """The counted parameters, 0 if unknown. Raises FileProblem."""
    parameters = metadata.get("parameters") or 0
    if not isinstance(parameters, int) or not 0 <= parameters < 2**31:
        raise FileProblem(f"metadata.json has parameters = {parameters!r}; write a whole number")
    return parameters


def parse_received(path: Path, metadata: dict[str, Any], edition: Edition) -> datetime:
    """When a submission was received: by metadata.json, else by its file name, else the edition's end. Raises FileProblem."""
    name = FILE_NAME.match(path.stem)
    timestamp = metadata.get("timestamp") or (re.sub(r"\D", "", name["stamp"]) if name else None)
    if timestamp is None:
        return edition.ends - timedelta(seconds=1)
    try:
        if metadata.get("timestamp"):
            received = datetime.fromisoformat(timestamp)
        else:
            received = datetime.strptime(timestamp, "%Y%m%d%H%M%S")
    except (ValueError, TypeError) as error:
        raise FileProblem(f"{timestamp!r} is not a time; write it like 2025-03-05T17:30:00+00:00") from error
    return received if received.tzinfo else received.replace(tzinfo=UTC)


def find_or_create_owner(
    session: Session, database: Database, edition: Edition, user: str, metadata: dict[str, Any]
) -> tuple[Person, Team]:
    """The person and team of an imported submission."""
    handle = re.sub(r"[^a-z0-9_-]", "-", user.lower())[:39].strip("-_") or "writer"
    person = session.scalar(select(Person).where(Person.handle == handle))
    if person is not None and (person.password or person.provider):
        # A person who can sign in is not necessarily the user of the old event.
        handle = f"{handle[:35]}-old"
        person = session.scalar(select(Person).where(Person.handle == handle))
    if person is None:
        person = Person(handle=handle, joined=database.now())
        session.add(person)
        session.flush()
    team = session.scalar(
        select(Team)
        .join(TeamMember, TeamMember.team_id == Team.id)
        .where(TeamMember.person_id == person.id, TeamMember.edition_id == edition.id)
    )
    return person, team or create_team(session, edition, person, metadata)


def create_team(session: Session, edition: Edition, person: Person, metadata: dict[str, Any]) -> Team:
    """A confirmed team of one person."""
    rules, hardware = get_rules(edition), str(metadata.get("hardware") or "not declared")[:200]
    name = str(metadata.get("submission_name") or person.handle)[:60]
    if session.scalar(select(Team.id).where(Team.edition_id == edition.id, Team.name_key == name_key(name))):
        name = f"{name[:40]} ({person.handle[:15]})"
    if metadata.get("weight_class"):
        weight_class = rules.weight_class(str(metadata["weight_class"]))
    else:
        weight_class = rules.class_for_hardware(hardware)
    team = Team(
        edition_id=edition.id,
        name=name,
        name_key=name_key(name),
        hardware=hardware,
        weight_class=weight_class.name,
        confirmed=True,
        declared=edition.starts,
    )
    session.add(team)
    session.flush()
    session.add(TeamMember(edition_id=edition.id, person_id=person.id, team_id=team.id, seat=0))
    return team


def import_scores(session: Session, edition: Edition, submission: Submission, path: Path) -> bool:
    """Import a submission's scores file. Returns False if it does not exist or has no rows."""
    if not path.exists():
        return False
    completion_ids = {
        (prompt, sample): completion_id
        for completion_id, prompt, sample in session.execute(
            select(CompletionRow.id, Prompt.text, CompletionRow.sample)
            .join(Prompt, Prompt.id == CompletionRow.prompt_id)
            .where(CompletionRow.submission_id == submission.id)
        )
    }
    judgements = []
    with translate_os_errors(path), path.open(encoding="utf-8", newline="") as file:
        for line, cells in enumerate(csv.DictReader(file), 2):
            try:
                judgement = parse_judgement(cells, completion_ids)
            except (KeyError, ValueError, TypeError) as error:
                raise FileProblem(
                    f"{path}, line {line}: {error!r}: not a row of a scores file; correct the line, or remove the file to judge again"
                ) from error
            judgements.append(judgement | {"panel": edition.panel, "submission_id": submission.id})
    if not judgements:
        return False
    session.execute(insert(JudgementRow), judgements)
    judges = sorted({judgement["judge"] for judgement in judgements})
    score_submission(
        session, submission, edition.panel, judges, qualified=is_panel_qualified(edition, judges)
    )
    submission.state = "judged"
    return True


def parse_judgement(cells: dict[str, Any], completion_ids: dict[tuple[str, int], int]) -> dict[str, Any]:
    """A row of a scores file as a judgement. Raises KeyError, ValueError or TypeError for an invalid row."""
    scores = {name: float(cell) for name, cell in cells.items() if name not in SCORE_COLUMNS and cell}
    numbers = {
        name: float(cells[name]) if cells.get(name) else None for name in ("overall", "calibrated", "weight")
    }
    return {
        "completion_id": completion_ids[cells["prompt"], int(cells["sample"])],
        "judge": cells["judge"][:120],
        "state": cells["state"] if cells["state"] in {"ok", "unparsable", "refused"} else "unparsable",
        **numbers,
        "scores": scores,
        "age": None,
        "words": "",
    }
