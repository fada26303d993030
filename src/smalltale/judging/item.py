"""Items to judge: a completion as the judge sees it, and the cache key of its judgement.

Input: the rows of a submission. Output: Items; a cache key for each with a judge, a rubric and a sampling.
Note: the key hashes the text after neutralising, so that a change of that code asks again only about texts it changes.
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
    """One completion to judge."""

    prompt: str
    completion: str
    sample: int

    @cached_property
    def shown(self) -> str:
        """The completion as the judge sees it."""
        return neutralise(self.completion)

    @cached_property
    def without_judge_directed_text(self) -> str | None:
        """`shown` without the sentences that speak to a judge; None if there are none."""
        return remove_judge_directed_text(self.shown) if find_judge_directed_spans(self.shown) else None


def items_from_rows(rows: Sequence[Completion]) -> list[Item]:
    """Items of a submission's rows; `sample` counts the completions of each prompt."""
    samples: Counter[str] = Counter()
    items = []
    for row in rows:
        items.append(Item(prompt=row.prompt, completion=row.completion, sample=samples[row.prompt]))
        samples[row.prompt] += 1
    return items


def index_by_cache_key(
    items: Sequence[Item], judge: str, endpoint: str, rubric: Rubric, sampling: Sampling
) -> dict[str, Item]:
    """The first item of each cache key, in order: equal completions are asked about once."""
    items_by_key: dict[str, Item] = {}
    for item in items:
        items_by_key.setdefault(cache_key(judge, endpoint, rubric, item, sampling), item)
    return items_by_key


def cache_key(judge: str, endpoint: str, rubric: Rubric, item: Item, sampling: Sampling) -> str:
    """Hash of the judge, its endpoint, the rubric, the texts and the sampling."""
    parts = [judge, endpoint, rubric.hash, neutralise(item.prompt), item.shown, asdict(sampling)]
    if item.without_judge_directed_text is not None:
        parts.append(item.without_judge_directed_text)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
