"""Checks an edition before it runs: its dates, prompts and judges.

Input: an EditionDraft, and texts that must not contain its prompts. Output: EditionIssues; nothing is changed.
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

LEAK_SIMILARITY = 0.9
"""A final prompt with at least this difflib ratio to a prompt of another set leaks."""
MIN_PROMPTS = 10


@dataclass(frozen=True, kw_only=True)
class EditionIssue:
    """A problem with an edition. Errors stop it; warnings are for the organisers to decide."""

    error: bool
    text: str


def check_edition(draft: EditionDraft, now: datetime, texts: Sequence[str] = ()) -> list[EditionIssue]:
    """All problems of an edition; `texts` are those that people train on."""
    return [*check_dates(draft, now), *check_prompts(draft, texts), *check_judges(draft)]


def check_dates(draft: EditionDraft, now: datetime) -> list[EditionIssue]:
    """Dates that are in the past or contradict one another."""
    rules, issues = draft.rules, []
    if rules.deadline() < now:
        issues.append(
            EditionIssue(
                error=False,
                text=f"the edition ended at {rules.deadline():%Y-%m-%d %H:%M} UTC; is that year right?",
            )
        )
    if rules.teams_lock() > rules.deadline():
        issues.append(
            EditionIssue(
                error=True,
                text=f"teams lock {rules.team_lock_days} days after the start, which is past the end; give fewer team_lock_days",
            )
        )
    for prompt_set in draft.sets:
        if prompt_set.appears >= rules.deadline():
            issues.append(
                EditionIssue(
                    error=True,
                    text=f"the {prompt_set.kind} prompts appear after the end of the edition; give an earlier time",
                )
            )
        elif prompt_set.kind == "final" and (rules.deadline() - prompt_set.appears).total_seconds() < 86_400:
            issues.append(
                EditionIssue(
                    error=False,
                    text="the final prompts appear less than a day before the end; some teams will be asleep",
                )
            )
        elif prompt_set.kind == "final" and prompt_set.appears <= rules.opens():
            issues.append(
                EditionIssue(error=True, text="the final prompts appear at the start; give a later time")
            )
    return issues


def check_prompts(draft: EditionDraft, texts: Sequence[str]) -> list[EditionIssue]:
    """Missing sets, prompts in two sets, prompts in a text that people train on."""
    kinds = {prompt_set.kind for prompt_set in draft.sets}
    issues = [
        EditionIssue(error=True, text=f"there are no {kind} prompts; add a [[prompt_set]]")
        for kind in ("daily", "final")
        if kind not in kinds
    ]
    final = next((prompt_set for prompt_set in draft.sets if prompt_set.kind == "final"), None)
    for prompt_set in draft.sets:
        if len(prompt_set.prompts) < MIN_PROMPTS:
            issues.append(
                EditionIssue(
                    error=False,
                    text=f"{len(prompt_set.prompts)} {prompt_set.kind} prompts separate few teams; 60 separate most",
                )
            )
        if final is None or prompt_set is final:
            continue
        skeletons = [confusable_skeleton(prompt) for prompt in prompt_set.prompts]
        for number, prompt in enumerate(final.prompts, 1):
            if close := difflib.get_close_matches(
                confusable_skeleton(prompt), skeletons, n=1, cutoff=LEAK_SIMILARITY
            ):
                issues.append(
                    EditionIssue(
                        error=True,
                        text=f"final prompt {number} leaks: it is {prompt_set.kind} prompt "
                        f"{skeletons.index(close[0]) + 1}, or nearly; write another",
                    )
                )
    text_skeletons = [confusable_skeleton(text) for text in texts]
    for prompt_set in draft.sets:
        for number, prompt in enumerate(prompt_set.prompts, 1):
            if any(confusable_skeleton(prompt) in text for text in text_skeletons):
                issues.append(
                    EditionIssue(
                        error=prompt_set.kind == "final",
                        text=f"{prompt_set.kind} prompt {number} is word for word in a text that people train on",
                    )
                )
    return issues


def check_judges(draft: EditionDraft) -> list[EditionIssue]:
    """Judges that are missing or may not rank."""
    if not draft.judges:
        return [EditionIssue(error=True, text="no judges are named; add judges = […] to [edition]")]
    return [*filter(None, (check_judge(draft, judge) for judge in draft.judges))]


def check_judge(draft: EditionDraft, judge: str) -> EditionIssue | None:
    """Why a judge does not rank, if it does not."""
    if is_scripted(judge):
        return EditionIssue(
            error=False,
            text=f"the judge {judge} is a script for demonstrations; it does not read the stories",
        )
    try:
        judge_identity(judge)
    except SmalltaleError as error:
        return EditionIssue(error=True, text=str(error))
    if judge not in draft.calibrations:
        return EditionIssue(
            error=False,
            text=f"the judge {judge} has no qualification: submissions that its panel judges never rank; "
            "run smalltale judge qualify, and name its qualification.json in [edition] qualifications",
        )
    if not draft.calibrations[judge].qualified:
        return EditionIssue(
            error=False,
            text=f"the judge {judge} has not passed its qualification: submissions that its panel judges never rank",
        )
    return None
