"""Taking a hand-in: the gate, the declaration, the daily limit, the queue.

In: a team's file and what it declares. Out: a HandIn that waits to be judged, or every problem at once.
Beware: the limit is a unique key (team, slot), so of two simultaneous uploads one wins; a refused or failed one uses up nothing.
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

from sqlalchemy import func, insert, select
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
from smalltale.submission import Completion as Row
from smalltale.submission import check_submission, normalize_prompt

SUFFIXES = (".csv", ".parquet", ".jsonl")
SUBMISSION_KINDS = ("daily", "final")


@dataclass(frozen=True, kw_only=True)
class CheckedUpload:
    """What the gate found, in words without the server's own paths."""

    errors: list[str]
    warnings: list[str]
    rows: Sequence[Row]
    prompts: PromptSet = field(repr=False)


def check_upload(
    database: Database, edition: Edition, kind: str, file_name: str, content: bytes
) -> CheckedUpload:
    """Run the gate on a file against the edition's prompts; nothing is kept. Raises Problem where the file cannot even be tried."""
    rules = get_rules(edition)
    suffix = Path(file_name).suffix.lower()
    if suffix not in SUFFIXES:
        found = f"{escape_unprintable(file_name) or 'a file without a name'} is none of {', '.join(SUFFIXES)}"
        raise invalid_field("file", found, "save it as one of them")
    if len(content) > rules.max_submission_bytes:
        most = f"at most {rules.max_submission_bytes:,} are taken"
        raise invalid_field("file", f"it has {len(content):,} bytes", most, 413)
    with database.read() as session:
        prompts = get_prompt_set(session, edition, kind, database.now())
        texts = [each.text for each in prompts.prompts]
    with tempfile.TemporaryDirectory(prefix="smalltale-") as folder:
        path = Path(folder) / f"hand-in{suffix}"
        path.write_bytes(content)
        verdict = check_submission(path, texts, rules)
    errors = [str(each).replace(str(path), "the file") for each in verdict.errors]
    return CheckedUpload(
        errors=errors, warnings=[str(each) for each in verdict.warnings], rows=verdict.rows, prompts=prompts
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
    """Take a hand-in and queue it. Raises Problem with everything wrong with it; then nothing is used up."""
    received = database.now()
    rules = get_rules(edition)
    if kind not in SUBMISSION_KINDS:
        found = f"{escape_unprintable(kind) or 'nothing'} cannot be handed in"
        raise invalid_field("kind", found, f"choose one of: {', '.join(SUBMISSION_KINDS)}")
    require_open(edition, received)
    with database.read() as session:
        team = find_team(session, edition, person)
        if team is None:
            raise RequestProblem(
                409, "you are in no team of this edition; make one or accept an invitation first"
            )
        if team.disqualified:
            raise RequestProblem(403, f"{team.name} is disqualified: {team.disqualified}")
        require_free_slot(session, rules, team, kind, received)
    problems = check_declaration(rules, team, declared)
    try:
        checked = check_upload(database, edition, kind, file_name, content)
    except RequestProblem as problem:
        if problem.status == 404:
            raise
        raise RequestProblem(problem.status, problem.title, [*problem.fields, *problems]) from problem
    problems = [*(FieldProblem("file", each) for each in checked.errors), *problems]
    if problems:
        raise RequestProblem(422, "this was not accepted; nothing was used up", problems)
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
    """Write an accepted hand-in, its stories and its job in one transaction."""
    rules = get_rules(edition)
    with database.write() as session:
        row = None
        for slot in slot_names(rules, kind, received):
            attempt = Submission(
                edition_id=edition.id,
                team_id=team.id,
                person_id=person.id,
                prompt_set_id=checked.prompts.id,
                kind=kind,
                slot=slot,
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
            try:
                with session.begin_nested():
                    session.add(attempt)
                row = attempt
                break
            except IntegrityError:
                continue
        if row is None:
            raise limit_reached(rules, kind, received)
        session.execute(insert(CompletionRow), completion_rows(row.id, checked))
        safe = clean_file_name(file_name)
        session.add(SubmissionFile(submission_id=row.id, name=safe, content=content))
        queue_judging(session, database, row, edition.panel)
        append_audit(
            session,
            received,
            person.handle,
            "handed in",
            f"hand-in {row.id}",
            team=team.name,
            kind=kind,
            sha256=row.sha256,
        )
        return row


def completion_rows(submission_id: int, checked: CheckedUpload) -> list[dict[str, Any]]:
    """The rows of the completion table."""
    ids = {normalize_prompt(each.text): each.id for each in checked.prompts.prompts}
    seen: Counter[str] = Counter()
    rows = []
    for each in checked.rows:
        prompt = normalize_prompt(each.prompt)
        rows.append(
            {
                "submission_id": submission_id,
                "prompt_id": ids[prompt],
                "sample": seen[prompt],
                "text": each.completion,
            }
        )
        seen[prompt] += 1
    return rows


def slot_names(rules: Rules, kind: str, received: datetime) -> list[str]:
    """What a hand-in may use up: places of the AOE day, or of the final."""
    if kind == "final":
        return [f"final#{n}" for n in range(rules.final_hand_ins)]
    return [f"{aoe_day(received)}#{n}" for n in range(rules.hand_ins_per_day)]


def require_open(edition: Edition, now: datetime) -> None:
    """Raise Problem outside the edition's dates."""
    if now < edition.starts:
        raise RequestProblem(409, f"{edition.title} opens at {edition.starts:%Y-%m-%d %H:%M} UTC")
    if now >= edition.ends:
        raise RequestProblem(
            409,
            f"{edition.title} closed at {edition.ends:%Y-%m-%d %H:%M} UTC, the last moment of its last day Anywhere on Earth",
        )


def require_free_slot(session: Session, rules: Rules, team: Team, kind: str, now: datetime) -> None:
    """Raise Problem early where the limit is reached (the unique key decides races)."""
    taken = session.scalar(
        select(func.count())
        .select_from(Submission)
        .where(Submission.team_id == team.id, Submission.slot.in_(slot_names(rules, kind, now)))
    )
    if (taken or 0) >= len(slot_names(rules, kind, now)):
        raise limit_reached(rules, kind, now)


def limit_reached(rules: Rules, kind: str, now: datetime) -> RequestProblem:
    """The answer to one hand-in too many."""
    if kind == "final":
        return RequestProblem(
            409,
            f"your team has handed in its final entry ({rules.final_hand_ins} allowed); it cannot be replaced",
        )
    day = aoe_day(now) + timedelta(days=1)
    opens = datetime(day.year, day.month, day.day, tzinfo=AOE).astimezone(UTC)
    return RequestProblem(
        429,
        f"your team has used its {rules.hand_ins_per_day} hand-in(s) of {aoe_day(now)} (AOE); the next day begins at {opens:%Y-%m-%d %H:%M} UTC",
    )


def clean_file_name(name: str) -> str:
    """A file's own name without folders or odd characters."""
    last = re.split(r"[/\\]", name)[-1]
    try:
        return clean_name(last, "file", 120)
    except RequestProblem:
        return f"hand-in{Path(last).suffix[:10]}" if Path(last).suffix.isascii() else "hand-in"
