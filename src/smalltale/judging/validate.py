"""Check a submission before any judge is paid.

Input: a submission file, and the prompts that it must answer, if known. Output: its rows.
Note: without the prompts, only unequal numbers of completions and prompts that speak to the judge are found.
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
    """Read a submission. Raises SmalltaleError if it answers other prompts or a mix of prompt sets."""
    rows = read_submission(path)
    counts = Counter(row.prompt for row in rows)
    if prompts is not None:
        require_same_prompts(path, counts, prompts)
    else:
        refuse_judge_directed_prompts(path, counts)
    most_common_count = Counter(counts.values()).most_common(1)[0][0] if counts else 0
    different = [prompt for prompt, count in counts.items() if count != most_common_count]
    if different:
        raise SmalltaleError(
            f"{path} mixes prompts: most have {most_common_count} completions, {quote_prompt(different[0])} has {counts[different[0]]} "
            f"({len(different)} of {len(counts)} prompts differ); submit the same number for each"
        )
    return rows


def require_same_prompts(path: Path, counts: Counter[str], prompts: Sequence[str]) -> None:
    """Raise SmalltaleError if a submission's prompts are not exactly these."""
    unknown = [prompt for prompt in counts if prompt not in set(prompts)]
    missing = [prompt for prompt in prompts if prompt not in counts]
    if unknown:
        raise SmalltaleError(
            f"{path} answers {len(unknown)} prompts that are not in the set, for example {quote_prompt(unknown[0])}; "
            "judge it with the prompts it was written for"
        )
    if missing:
        raise SmalltaleError(
            f"{path} leaves out {len(missing)} of {len(prompts)} prompts, for example {quote_prompt(missing[0])}; "
            "complete the submission first"
        )


def refuse_judge_directed_prompts(path: Path, prompts: Iterable[str]) -> None:
    """Raise SmalltaleError if a prompt of an unknown prompt set speaks to the judge, who would see it in every request."""
    for prompt in prompts:
        if passages := find_judge_directed_text(neutralise(prompt)):
            raise SmalltaleError(
                f"{path}: the prompt {quote_prompt(prompt)} speaks to its judge ({quote_prompt(passages[0])}); judge it with the prompts it "
                "was written for: --prompts FILE"
            )


def quote_prompt(prompt: str) -> str:
    """A prompt, shortened for a message."""
    return repr(prompt if len(prompt) <= MAX_QUOTED_PROMPT else f"{prompt[:MAX_QUOTED_PROMPT]}…")
