"""Is an edition fit to run? Dates, prompts, judges.

In: an EditionDraft, and texts that its prompts must not be in. Out: everything found, in words.
Beware: it warns and never mends; the organisers decide.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from smalltale.errors import SmalltaleError
from smalltale.judging.registry import judge_identity
from smalltale.server.editions.editions import EditionDraft
from smalltale.server.judging.scoring import is_scripted
from smalltale.submission import confusable_skeleton

NEAR = 0.9
"""Prompts at least this much alike leak from one set to the other."""


@dataclass(frozen=True, kw_only=True)
class EditionIssue:
    """One thing found. Errors stop an edition; warnings are for the organisers to weigh."""

    error: bool
    text: str


def check_edition(draft: EditionDraft, now: datetime, texts: Sequence[str] = ()) -> list[EditionIssue]:
    """Everything that is odd about an edition."""
    return [*check_dates(draft, now), *check_prompts(draft, texts), *check_judges(draft)]


def check_dates(draft: EditionDraft, now: datetime) -> list[EditionIssue]:
    """Dates that cannot be meant."""
    rules, found = draft.rules, []
    if rules.deadline() < now:
        found.append(
            EditionIssue(
                error=False,
                text=f"the edition ended at {rules.deadline():%Y-%m-%d %H:%M} UTC; is that year right?",
            )
        )
    if rules.teams_lock() > rules.deadline():
        found.append(
            EditionIssue(
                error=True,
                text=f"teams lock {rules.team_lock_days} days after the start, which is past the end; give fewer team_lock_days",
            )
        )
    for each in draft.sets:
        if each.appears >= rules.deadline():
            found.append(
                EditionIssue(
                    error=True,
                    text=f"the {each.kind} prompts appear when the edition is over; give an earlier hour",
                )
            )
        elif each.kind == "final" and (rules.deadline() - each.appears).total_seconds() < 86_400:
            found.append(
                EditionIssue(
                    error=False,
                    text="the final prompts appear less than a day before the end; somebody will be asleep",
                )
            )
        elif each.kind == "final" and each.appears <= rules.opens():
            found.append(
                EditionIssue(error=True, text="the final prompts appear at the start; give a later hour")
            )
    return found


def check_prompts(draft: EditionDraft, texts: Sequence[str]) -> list[EditionIssue]:
    """Missing sets, prompts in two sets, prompts that stand in a text people train on."""
    found, kinds = [], {each.kind for each in draft.sets}
    found += [
        EditionIssue(error=True, text=f"there are no {kind} prompts; add a [[prompt_set]]")
        for kind in ("daily", "final")
        if kind not in kinds
    ]
    final = next((each for each in draft.sets if each.kind == "final"), None)
    for each in draft.sets:
        if len(each.prompts) < 10:
            found.append(
                EditionIssue(
                    error=False,
                    text=f"{len(each.prompts)} {each.kind} prompts separate few teams; 60 separate most",
                )
            )
        if final is None or each is final:
            continue
        shown = [confusable_skeleton(prompt) for prompt in each.prompts]
        for number, prompt in enumerate(final.prompts, 1):
            if close := difflib.get_close_matches(confusable_skeleton(prompt), shown, n=1, cutoff=NEAR):
                place = shown.index(close[0]) + 1
                found.append(
                    EditionIssue(
                        error=True,
                        text=f"final prompt {number} leaks: it is {each.kind} prompt {place}, or nearly; write another",
                    )
                )
    folded = [confusable_skeleton(text) for text in texts]
    for each in draft.sets:
        for number, prompt in enumerate(each.prompts, 1):
            if any(confusable_skeleton(prompt) in text for text in folded):
                found.append(
                    EditionIssue(
                        error=each.kind == "final",
                        text=f"{each.kind} prompt {number} stands word for word in a text that people train on",
                    )
                )
    return found


def check_judges(draft: EditionDraft) -> list[EditionIssue]:
    """Judges that are missing or may not rank."""
    if not draft.judges:
        return [EditionIssue(error=True, text="no judges are named; add judges = […] to [edition]")]
    return [*filter(None, (check_judge(draft, judge) for judge in draft.judges))]


def check_judge(draft: EditionDraft, judge: str) -> EditionIssue | None:
    """What is odd about one judge."""
    if is_scripted(judge):
        return EditionIssue(
            error=False, text=f"the judge {judge} is a script for demonstrations; it reads nothing"
        )
    try:
        judge_identity(judge)
    except SmalltaleError as error:
        return EditionIssue(error=True, text=str(error))
    if judge not in draft.load_calibrations:
        return EditionIssue(
            error=False,
            text=f"the judge {judge} has no qualification: hand-ins that its panel judges never rank; "
            "run smalltale judge qualify, and name its qualification.json in [edition] qualifications",
        )
    if not draft.load_calibrations[judge].qualified:
        return EditionIssue(
            error=False,
            text=f"the judge {judge} has not passed its qualification: hand-ins that its panel judges never rank",
        )
    return None
