"""What is to be judged: a completion as its judge sees it, and the key by which its judgement is known again.

In: a hand-in's rows. Out: Items; a key for each with a judge, a rubric and its sampling.
Beware: a key is made from what the judge is shown, so that a change of the guard asks anew where it changes a text.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

from smalltale.judging.judge import Sampling
from smalltale.judging.prompt_injection import neutralise, remove_judge_directed_text
from smalltale.judging.rubric import Rubric
from smalltale.submission import Completion
from smalltale.text_signals import find_judge_directed_spans


@dataclass(frozen=True, kw_only=True)
class Item:
    """One completion to be judged."""

    prompt: str
    completion: str
    sample: int

    @cached_property
    def shown(self) -> str:
        """The completion as a judge sees it."""
        return neutralise(self.completion)

    @cached_property
    def without_judge_directed_text(self) -> str | None:
        """That without the sentences that speak to a judge; None where none does."""
        return remove_judge_directed_text(self.shown) if find_judge_directed_spans(self.shown) else None


def items_from_rows(rows: Sequence[Completion]) -> list[Item]:
    """The rows with each completion's place among those of its prompt."""
    seen: Counter[str] = Counter()
    items = []
    for row in rows:
        items.append(Item(prompt=row.prompt, completion=row.completion, sample=seen[row.prompt]))
        seen[row.prompt] += 1
    return items


def index_by_cache_key(
    items: Sequence[Item], judge: str, endpoint: str, rubric: Rubric, sampling: Sampling
) -> dict[str, Item]:
    """The items by what a judge would be asked, equal ones once, in order."""
    found: dict[str, Item] = {}
    for item in items:
        found.setdefault(cache_key(judge, endpoint, rubric, item, sampling), item)
    return found


def cache_key(judge: str, endpoint: str, rubric: Rubric, item: Item, sampling: Sampling) -> str:
    """What makes two judgements the same one: who is asked, where, what and how."""
    parts = [judge, endpoint, rubric.hash, neutralise(item.prompt), item.shown, asdict(sampling)]
    if item.without_judge_directed_text is not None:
        parts.append(item.without_judge_directed_text)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
