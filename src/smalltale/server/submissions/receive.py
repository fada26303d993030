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
from smalltale.server.accounts.accounts import clean_name, visible
from smalltale.server.database.models import Completion, Edition, HandIn, Person, PromptSet, Team, Upload
from smalltale.server.database.session import Store, audit
from smalltale.server.editions.editions import prompts_for, rules_of
from smalltale.server.editions.teams import team_of
from smalltale.server.errors import FieldProblem, Problem, refused
from smalltale.server.judging.queue import queue_judging
from smalltale.server.submissions.declaration import Declaration, check_declaration
from smalltale.submission import Completion as Row
from smalltale.submission import check_submission, normal

SUFFIXES = (".csv", ".parquet", ".jsonl")
HAND_IN_KINDS = ("daily", "final")


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What the gate found, in words without the server's own paths."""

    errors: list[str]
    warnings: list[str]
    rows: Sequence[Row]
    prompts: PromptSet = field(repr=False)


def check_upload(store: Store, edition: Edition, kind: str, file_name: str, content: bytes) -> Checked:
    """Run the gate on a file against the edition's prompts; nothing is kept. Raises Problem where the file cannot even be tried."""
    rules = rules_of(edition)
    suffix = Path(file_name).suffix.lower()
    if suffix not in SUFFIXES:
        found = f"{visible(file_name) or 'a file without a name'} is none of {', '.join(SUFFIXES)}"
        raise refused("file", found, "save it as one of them")
    if len(content) > rules.max_submission_bytes:
        most = f"at most {rules.max_submission_bytes:,} are taken"
        raise refused("file", f"it has {len(content):,} bytes", most, 413)
    with store.read() as session:
        prompts = prompts_for(session, edition, kind, store.now())
        texts = [each.text for each in prompts.prompts]
    with tempfile.TemporaryDirectory(prefix="smalltale-") as folder:
        path = Path(folder) / f"hand-in{suffix}"
        path.write_bytes(content)
        verdict = check_submission(path, texts, rules)
    errors = [str(each).replace(str(path), "the file") for each in verdict.errors]
    return Checked(
        errors=errors, warnings=[str(each) for each in verdict.warnings], rows=verdict.rows, prompts=prompts
    )


def hand_in(
    store: Store,
    edition: Edition,
    person: Person,
    kind: str,
    file_name: str,
    content: bytes,
    declared: Declaration,
) -> HandIn:
    """Take a hand-in and queue it. Raises Problem with everything wrong with it; then nothing is used up."""
    received = store.now()
    rules = rules_of(edition)
    if kind not in HAND_IN_KINDS:
        found = f"{visible(kind) or 'nothing'} cannot be handed in"
        raise refused("kind", found, f"choose one of: {', '.join(HAND_IN_KINDS)}")
    refuse_closed(edition, received)
    with store.read() as session:
        team = team_of(session, edition, person)
        if team is None:
            raise Problem(409, "you are in no team of this edition; make one or accept an invitation first")
        if team.disqualified:
            raise Problem(403, f"{team.name} is disqualified: {team.disqualified}")
        refuse_used_up(session, rules, team, kind, received)
    problems = check_declaration(rules, team, declared)
    try:
        checked = check_upload(store, edition, kind, file_name, content)
    except Problem as problem:
        if problem.status == 404:
            raise
        raise Problem(problem.status, problem.title, [*problem.fields, *problems]) from problem
    problems = [*(FieldProblem("file", each) for each in checked.errors), *problems]
    if problems:
        raise Problem(422, "this was not accepted; nothing was used up", problems)
    return keep(store, edition, team, person, kind, received, file_name, content, declared, checked)


def keep(
    store: Store,
    edition: Edition,
    team: Team,
    person: Person,
    kind: str,
    received: datetime,
    file_name: str,
    content: bytes,
    declared: Declaration,
    checked: Checked,
) -> HandIn:
    """Write an accepted hand-in, its stories and its job in one transaction."""
    rules = rules_of(edition)
    with store.write() as session:
        row = None
        for slot in slots(rules, kind, received):
            attempt = HandIn(
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
            raise used_up(rules, kind, received)
        session.execute(insert(Completion), completions(row.id, checked))
        safe = clean_file_name(file_name)
        session.add(Upload(hand_in_id=row.id, name=safe, content=content))
        queue_judging(session, store, row, edition.panel)
        audit(
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


def completions(hand_in_id: int, checked: Checked) -> list[dict[str, Any]]:
    """The rows of the completion table."""
    ids = {normal(each.text): each.id for each in checked.prompts.prompts}
    seen: Counter[str] = Counter()
    rows = []
    for each in checked.rows:
        prompt = normal(each.prompt)
        rows.append(
            {
                "hand_in_id": hand_in_id,
                "prompt_id": ids[prompt],
                "sample": seen[prompt],
                "text": each.completion,
            }
        )
        seen[prompt] += 1
    return rows


def slots(rules: Rules, kind: str, received: datetime) -> list[str]:
    """What a hand-in may use up: places of the AOE day, or of the final."""
    if kind == "final":
        return [f"final#{n}" for n in range(rules.final_hand_ins)]
    return [f"{aoe_day(received)}#{n}" for n in range(rules.hand_ins_per_day)]


def refuse_closed(edition: Edition, now: datetime) -> None:
    """Raise Problem outside the edition's dates."""
    if now < edition.starts:
        raise Problem(409, f"{edition.title} opens at {edition.starts:%Y-%m-%d %H:%M} UTC")
    if now >= edition.ends:
        raise Problem(
            409,
            f"{edition.title} closed at {edition.ends:%Y-%m-%d %H:%M} UTC, the last moment of its last day Anywhere on Earth",
        )


def refuse_used_up(session: Session, rules: Rules, team: Team, kind: str, now: datetime) -> None:
    """Raise Problem early where the limit is reached (the unique key decides races)."""
    taken = session.scalar(
        select(func.count())
        .select_from(HandIn)
        .where(HandIn.team_id == team.id, HandIn.slot.in_(slots(rules, kind, now)))
    )
    if (taken or 0) >= len(slots(rules, kind, now)):
        raise used_up(rules, kind, now)


def used_up(rules: Rules, kind: str, now: datetime) -> Problem:
    """The answer to one hand-in too many."""
    if kind == "final":
        return Problem(
            409,
            f"your team has handed in its final entry ({rules.final_hand_ins} allowed); it cannot be replaced",
        )
    day = aoe_day(now) + timedelta(days=1)
    opens = datetime(day.year, day.month, day.day, tzinfo=AOE).astimezone(UTC)
    return Problem(
        429,
        f"your team has used its {rules.hand_ins_per_day} hand-in(s) of {aoe_day(now)} (AOE); the next day begins at {opens:%Y-%m-%d %H:%M} UTC",
    )


def clean_file_name(name: str) -> str:
    """A file's own name without folders or odd characters."""
    last = re.split(r"[/\\]", name)[-1]
    try:
        return clean_name(last, "file", 120)
    except Problem:
        return f"hand-in{Path(last).suffix[:10]}" if Path(last).suffix.isascii() else "hand-in"
