"""Receives submissions: validates the file and the declaration, applies the daily limit, stores and queues the stories.

Input: a team's file and declaration. Output: a Submission that waits to be judged, or every problem at once.
Note: a unique key (team, slot) enforces the limit, so one of two simultaneous uploads wins. A refused or failed one uses no slot.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from smalltale.rules import AOE, Rules, aoe_day
from smalltale.server.accounts.accounts import clean_name, escape_unprintable
from smalltale.server.database.models import (
    CompletionRow,
    Edition,
    Person,
    PromptSet,
    Submission,
    SubmissionFile,
    Team,
)
from smalltale.server.database.session import Database, append_audit
from smalltale.server.editions.editions import get_prompt_set, get_rules
from smalltale.server.editions.teams import find_team
from smalltale.server.errors import FieldProblem, RequestProblem, invalid_field
from smalltale.server.judging.queue import queue_judging
from smalltale.server.submissions.declaration import Declaration, check_declaration
from smalltale.submission import Completion, check_submission, normalize_prompt

SUFFIXES = (".csv", ".parquet", ".jsonl")
SUBMISSION_KINDS = ("daily", "final")


@dataclass(frozen=True, kw_only=True)
class CheckedUpload:
    """The result of validating a file. Its messages contain no paths of the server."""

    errors: list[str]
    warnings: list[str]
    completions: Sequence[Completion]
    prompt_set: PromptSet = field(repr=False)


def check_upload(
    database: Database, edition: Edition, kind: str, file_name: str, content: bytes
) -> CheckedUpload:
    """Validate a file against the edition's prompts; nothing is saved.

    Raises RequestProblem for an unsupported type, a file over the size limit, and prompts that have not appeared.
    """
    rules = get_rules(edition)
    suffix = Path(file_name).suffix.lower()
    if suffix not in SUFFIXES:
        message = f"unsupported file type: {escape_unprintable(file_name)}"
        raise invalid_field("file", message, "use .csv, .parquet or .jsonl")
    if len(content) > rules.max_submission_bytes:
        limit = f"at most {rules.max_submission_bytes:,} are accepted"
        raise invalid_field("file", f"it has {len(content):,} bytes", limit, 413)
    with database.read() as session:
        prompt_set = get_prompt_set(session, edition, kind, database.now())
        prompts = [prompt.text for prompt in prompt_set.prompts]
    with tempfile.TemporaryDirectory(prefix="smalltale-") as folder:
        path = Path(folder) / f"submission{suffix}"
        path.write_bytes(content)
        validation = check_submission(path, prompts, rules)
    return CheckedUpload(
        errors=[str(error).replace(str(path), "the file") for error in validation.errors],
        warnings=[str(warning) for warning in validation.warnings],
        completions=validation.rows,
        prompt_set=prompt_set,
    )


def receive_submission(
    database: Database,
    edition: Edition,
    person: Person,
    kind: str,
    file_name: str,
    content: bytes,
    declared: Declaration,
) -> Submission:
    """Store a submission and queue it. Raises RequestProblem with all its problems; then it uses no slot."""
    received = database.now()
    rules = get_rules(edition)
    if kind not in SUBMISSION_KINDS:
        message = f"{escape_unprintable(kind)} is not a kind of submission"
        raise invalid_field("kind", message, f"choose one of: {', '.join(SUBMISSION_KINDS)}")
    require_open(edition, received)
    with database.read() as session:
        team = find_team(session, edition, person)
        if team is None:
            title = "you have no team in this edition; create one or accept an invitation first"
            raise RequestProblem(409, title)
        if team.disqualified:
            raise RequestProblem(403, f"{team.name} is disqualified: {team.disqualified}")
        require_free_slot(session, rules, team, kind, received)
    problems = list(check_declaration(rules, team, declared))
    try:
        checked = check_upload(database, edition, kind, file_name, content)
    except RequestProblem as problem:
        if problem.status == 404:
            raise
        raise RequestProblem(problem.status, problem.title, [*problem.fields, *problems]) from problem
    problems = [*(FieldProblem("file", error) for error in checked.errors), *problems]
    if problems:
        raise RequestProblem(422, "this was not accepted; it does not count against your limit", problems)
    return store_submission(
        database, edition, team, person, kind, received, file_name, content, declared, checked
    )


def store_submission(
    database: Database,
    edition: Edition,
    team: Team,
    person: Person,
    kind: str,
    received: datetime,
    file_name: str,
    content: bytes,
    declared: Declaration,
    checked: CheckedUpload,
) -> Submission:
    """Write an accepted submission, its completions and its judging job in one transaction."""
    rules = get_rules(edition)
    submission = Submission(
        edition_id=edition.id,
        team_id=team.id,
        person_id=person.id,
        prompt_set_id=checked.prompt_set.id,
        kind=kind,
        received=received,
        sha256=hashlib.sha256(content).hexdigest(),
        weight_class=declared.weight_class,
        counted_parameters=int(re.sub(r"\D", "", declared.counted_parameters)),
        model_hash=declared.model_hash.strip().lower(),
        declaration={
            "data": declared.data.strip(),
            "sampling": declared.sampling.strip(),
            "from_scratch": True,
        },
        warnings=checked.warnings,
        state="queued",
    )
    with database.write() as session:
        if not take_slot(session, submission, slot_names(rules, kind, received)):
            raise limit_reached(rules, kind, received)
        session.execute(insert(CompletionRow), completion_rows(submission.id, checked))
        name = clean_file_name(file_name)
        session.add(SubmissionFile(submission_id=submission.id, name=name, content=content))
        queue_judging(session, database, submission, edition.panel)
        detail = {"team": team.name, "kind": kind, "sha256": submission.sha256}
        append_audit(session, received, person.handle, "handed in", f"hand-in {submission.id}", **detail)
        return submission


def take_slot(session: Session, submission: Submission, slots: Sequence[str]) -> bool:
    """Add a submission in the first free slot; the unique key decides races. False if all slots are used."""
    for slot in slots:
        submission.slot = slot
        try:
            with session.begin_nested():
                session.add(submission)
        except IntegrityError:
            continue
        return True
    return False


def completion_rows(submission_id: int, checked: CheckedUpload) -> list[dict[str, Any]]:
    """The submission's rows of the completion table."""
    prompt_ids = {normalize_prompt(prompt.text): prompt.id for prompt in checked.prompt_set.prompts}
    samples: Counter[str] = Counter()
    rows = []
    for completion in checked.completions:
        prompt = normalize_prompt(completion.prompt)
        rows.append(
            {
                "submission_id": submission_id,
                "prompt_id": prompt_ids[prompt],
                "sample": samples[prompt],
                "text": completion.completion,
            }
        )
        samples[prompt] += 1
    return rows


def slot_names(rules: Rules, kind: str, received: datetime) -> list[str]:
    """The slots that a submission may use: those of its day Anywhere on Earth (AOE), or of the final."""
    if kind == "final":
        return [f"final#{n}" for n in range(rules.final_hand_ins)]
    return [f"{aoe_day(received)}#{n}" for n in range(rules.hand_ins_per_day)]


def require_open(edition: Edition, now: datetime) -> None:
    """Raise RequestProblem outside the edition's dates."""
    if now < edition.starts:
        raise RequestProblem(409, f"{edition.title} opens at {edition.starts:%Y-%m-%d %H:%M} UTC")
    if now >= edition.ends:
        raise RequestProblem(
            409,
            f"{edition.title} closed at {edition.ends:%Y-%m-%d %H:%M} UTC, when its last day ended Anywhere on Earth",
        )


def require_free_slot(session: Session, rules: Rules, team: Team, kind: str, now: datetime) -> None:
    """Raise RequestProblem early if the limit is reached; the unique key decides races."""
    slots = slot_names(rules, kind, now)
    used = select(Submission.id).where(Submission.team_id == team.id, Submission.slot.in_(slots))
    if len(session.scalars(used).all()) >= len(slots):
        raise limit_reached(rules, kind, now)


def limit_reached(rules: Rules, kind: str, now: datetime) -> RequestProblem:
    """The error for a submission over the limit."""
    if kind == "final":
        title = (
            f"your team has submitted its final entry ({rules.final_hand_ins} allowed); it cannot be replaced"
        )
        return RequestProblem(409, title)
    times = f" {rules.hand_ins_per_day} times" if rules.hand_ins_per_day > 1 else ""
    day = aoe_day(now) + timedelta(days=1)
    opens = datetime(day.year, day.month, day.day, tzinfo=AOE).astimezone(UTC)
    title = f"your team has already submitted{times} on {aoe_day(now)} (AOE); next at {opens:%d %b %H:%M} UTC"
    return RequestProblem(429, title)


def clean_file_name(name: str) -> str:
    """The file's name without folders; `submission` with the same suffix if the name has unusual characters."""
    base_name = re.split(r"[/\\]", name)[-1]
    try:
        return clean_name(base_name, "file", 120)
    except RequestProblem:
        suffix = Path(base_name).suffix[:10]
        return f"submission{suffix}" if suffix.isascii() else "submission"
