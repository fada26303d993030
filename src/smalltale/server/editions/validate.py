"""Checks an edition before it runs: its dates, prompts and judges.

Input: an EditionDraft, and training texts that must not contain its prompts. Output: EditionIssues; nothing is changed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from smalltale.errors import SmalltaleError
from smalltale.judging.registry import judge_identity
from smalltale.server.editions.editions import EditionDraft
from smalltale.server.judging.scoring import is_scripted
from smalltale.submission import confusable_skeleton

LEAK_SIMILARITY = 0.9
"""difflib ratio to a prompt of another set from which a final prompt counts as leaked."""
MIN_PROMPTS = 10


@dataclass(frozen=True)
class EditionIssue:
    """A problem with an edition. Errors stop its import; organisers decide about warnings."""

    text: str
    error: bool = True


def warning(text: str) -> EditionIssue:
    """An issue that does not stop the import."""
    return EditionIssue(text, error=False)


def check_edition(draft: EditionDraft, now: datetime, texts: Sequence[str] = ()) -> list[EditionIssue]:
    """All problems of an edition; `texts` are training texts, which must not contain its prompts."""
    leaks = [*check_final_prompts(draft), *check_texts(draft, texts)]
    return [*check_dates(draft, now), *check_prompt_sets(draft), *leaks, *check_judges(draft)]


def check_dates(draft: EditionDraft, now: datetime) -> Iterator[EditionIssue]:
    """Dates that are in the past or contradict one another."""
    rules = draft.rules
    if rules.deadline() < now:
        yield warning(f"the edition ended at {rules.deadline():%Y-%m-%d %H:%M} UTC; check the year")
    if rules.teams_lock() > rules.deadline():
        yield EditionIssue(
            f"teams lock {rules.team_lock_days} days after the start, which is past the end; "
            "choose a smaller team_lock_days"
        )
    for prompt_set in draft.sets:
        kind, appears = prompt_set.kind, prompt_set.appears
        if appears >= rules.deadline():
            yield EditionIssue(f"the {kind} prompts appear after the end of the edition; set an earlier time")
        elif kind == "final" and rules.deadline() - appears < timedelta(days=1):
            yield warning(
                "the final prompts appear less than a day before the end, which is night for some teams; "
                "set an earlier time"
            )
        elif kind == "final" and appears <= rules.opens():
            yield EditionIssue("the final prompts appear at the start; set a later time")


def check_prompt_sets(draft: EditionDraft) -> Iterator[EditionIssue]:
    """Missing and small prompt sets."""
    kinds = {prompt_set.kind for prompt_set in draft.sets}
    for kind in ("daily", "final"):
        if kind not in kinds:
            yield EditionIssue(f"there are no {kind} prompts; add a [[prompt_set]]")
    for prompt_set in draft.sets:
        if (count := len(prompt_set.prompts)) < MIN_PROMPTS:
            yield warning(f"{count} {prompt_set.kind} prompts separate few teams; 60 separate most")


def check_final_prompts(draft: EditionDraft) -> Iterator[EditionIssue]:
    """Final prompts that teams see before the final, in another prompt set."""
    final = [
        prompt for prompt_set in draft.sets if prompt_set.kind == "final" for prompt in prompt_set.prompts
    ]
    for prompt_set in draft.sets:
        if prompt_set.kind == "final":
            continue
        skeletons = [confusable_skeleton(prompt) for prompt in prompt_set.prompts]
        for number, prompt in enumerate(final, 1):
            skeleton = confusable_skeleton(prompt)
            if close := difflib.get_close_matches(skeleton, skeletons, n=1, cutoff=LEAK_SIMILARITY):
                yield EditionIssue(
                    f"final prompt {number} leaks: it is nearly or exactly {prompt_set.kind} prompt "
                    f"{skeletons.index(close[0]) + 1}; write another"
                )


def check_texts(draft: EditionDraft, texts: Sequence[str]) -> Iterator[EditionIssue]:
    """Prompts that a training text contains: an error for final prompts, a warning for others."""
    text_skeletons = [confusable_skeleton(text) for text in texts]
    for prompt_set in draft.sets:
        for number, prompt in enumerate(prompt_set.prompts, 1):
            if any(confusable_skeleton(prompt) in text for text in text_skeletons):
                yield EditionIssue(
                    f"{prompt_set.kind} prompt {number} is in a training text word for word; write another",
                    error=prompt_set.kind == "final",
                )


def check_judges(draft: EditionDraft) -> Iterator[EditionIssue]:
    """Judges that are missing or cannot rank."""
    if not draft.judges:
        yield EditionIssue("no judges are named; add judges = […] to [edition]")
    for judge in draft.judges:
        if is_scripted(judge):
            yield warning(f"the judge {judge} is a script for demonstrations; it does not read the stories")
            continue
        try:
            judge_identity(judge)
        except SmalltaleError as error:
            yield EditionIssue(str(error))
            continue
        calibration = draft.calibrations.get(judge)
        if calibration is None:
            yield warning(
                f"the judge {judge} has no qualification: submissions that its panel judges never rank; "
                "run smalltale judge qualify, and name its qualification.json in [edition] qualifications"
            )
        elif not calibration.qualified:
            yield warning(
                f"the judge {judge} has not passed its qualification: submissions that its panel judges never "
                "rank; choose another judge"
            )
