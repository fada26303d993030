"""The hand-in that is to be judged, checked before anything is paid for.

In: a submission file, and the prompts it answers where they are at hand. Out: its rows.
Beware: without a prompt file, only what the hand-in itself betrays is seen: prompts of unequal numbers of completions, and
prompts that speak to the judge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from smalltale.errors import SmalltaleError
from smalltale.judging.prompt_injection import neutralise
from smalltale.submission import Completion, read_submission
from smalltale.text_signals import find_judge_directed_text

MAX_QUOTED_PROMPT = 60


def read_checked_submission(path: Path, prompts: Sequence[str] | None = None) -> list[Completion]:
    """The rows. Raises SmalltaleError for a hand-in that answers other prompts, or a mix of several sets."""
    rows = read_submission(path)
    counts = Counter(row.prompt for row in rows)
    if prompts is not None:
        require_same_prompts(path, counts, prompts)
    else:
        refuse_judge_directed_prompts(path, counts)
    usual = Counter(counts.values()).most_common(1)[0][0] if counts else 0
    odd = [prompt for prompt, count in counts.items() if count != usual]
    if odd:
        raise SmalltaleError(
            f"{path} mixes prompts: most have {usual} completions, {quote_prompt(odd[0])} has {counts[odd[0]]} "
            f"({len(odd)} of {len(counts)} prompts differ); hand in as many for each"
        )
    return rows


def require_same_prompts(path: Path, counts: Counter[str], prompts: Sequence[str]) -> None:
    """Raise SmalltaleError where a hand-in's prompts are not exactly these."""
    foreign = [prompt for prompt in counts if prompt not in set(prompts)]
    missing = [prompt for prompt in prompts if prompt not in counts]
    if foreign:
        raise SmalltaleError(
            f"{path} answers {len(foreign)} prompts that are not in the set, for example {quote_prompt(foreign[0])}; "
            "judge it with the prompts it was written for"
        )
    if missing:
        raise SmalltaleError(
            f"{path} leaves out {len(missing)} of {len(prompts)} prompts, for example {quote_prompt(missing[0])}; "
            "complete the hand-in first"
        )


def refuse_judge_directed_prompts(path: Path, prompts: Iterable[str]) -> None:
    """Raise SmalltaleError where a prompt that nobody vouches for speaks to the judge, who would see it in every request."""
    for prompt in prompts:
        if passages := find_judge_directed_text(neutralise(prompt)):
            raise SmalltaleError(
                f"{path}: the prompt {quote_prompt(prompt)} speaks to its judge ({quote_prompt(passages[0])}); judge it with the prompts it "
                "was written for: --prompts FILE"
            )


def require_shared_prompts(
    first: Path, one: Sequence[str], second: Path, two: Sequence[str], *, only_shared: bool
) -> set[str]:
    """The prompts of both entries. Raises SmalltaleError where they differ, unless `only_shared` was asked for."""
    shared = set(one) & set(two)
    if not shared:
        raise SmalltaleError(f"{first} and {second} share no prompt; judge both on the same prompts")
    apart = [prompt for prompt in dict.fromkeys([*one, *two]) if prompt not in shared]
    if apart and not only_shared:
        raise SmalltaleError(
            f"{first} and {second} answer different prompts: {len(shared)} are shared, {len(apart)} are not, for example "
            f"{quote_prompt(apart[0])}; add --shared to compare on the shared ones alone"
        )
    return shared


def quote_prompt(prompt: str) -> str:
    """A prompt as a message shows it."""
    return repr(prompt if len(prompt) <= MAX_QUOTED_PROMPT else f"{prompt[:MAX_QUOTED_PROMPT]}…")
