"""Pairwise verdicts: a judge compares two completions of one prompt in both orders.

Input: pairs of texts. Output: for each pair who won, and whether the order decided.
Note: a verdict that changes with the order is a tie and counts as position bias. Sentences that speak to the judge are
removed from both texts first.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from smalltale.judging.ask import RateLimitedJudge, ask
from smalltale.judging.cache import JudgementCache
from smalltale.judging.config import JudgingConfig
from smalltale.judging.judge import Judge
from smalltale.judging.prompt_injection import neutralise, remove_judge_directed_text
from smalltale.judging.rubric import Rubric
from smalltale.text_signals import find_judge_directed_spans

VALUES = {"first": 1.0, "tie": 0.5, "second": 0.0}


@dataclass(frozen=True, kw_only=True)
class CompletionPair:
    """Two completions of one prompt."""

    prompt: str
    first: str
    second: str


@dataclass(frozen=True, kw_only=True)
class PairVerdict:
    """`value`: 1 if `first` won, 0 if `second` did, 0.5 for a tie; None if either order has no valid answer."""

    value: float | None
    order_dependent: bool = False
    has_judge_directed_text: bool = False
    """Whether one of the two completions speaks to its judge."""
    calls: int = 0


def compare_pairs(
    pairs: Sequence[CompletionPair],
    judge: Judge,
    rubric: Rubric,
    config: JudgingConfig,
    salt: str,
    cache: JudgementCache | None = None,
) -> list[PairVerdict]:
    """A verdict for each pair. An open `cache` saves answers; cached ones are not asked again."""
    comparer = PairComparer(RateLimitedJudge(judge, config), rubric, salt, cache or JudgementCache())

    async def compare_all() -> list[PairVerdict]:
        semaphore = asyncio.Semaphore(judge.concurrency)
        try:
            return await asyncio.gather(*(comparer.compare_pair(pair, semaphore) for pair in pairs))
        finally:
            await judge.close()

    return asyncio.run(compare_all())


@dataclass(frozen=True)
class PairComparer:
    """Asks one judge about pairs, unless the answer is cached."""

    judge: RateLimitedJudge
    rubric: Rubric
    salt: str
    cache: JudgementCache

    async def compare_pair(self, pair: CompletionPair, semaphore: asyncio.Semaphore) -> PairVerdict:
        """Compare two completions in both orders."""
        texts = [neutralise(text) for text in (pair.first, pair.second)]
        first, second = map(remove_judge_directed_text, texts)
        async with semaphore:
            forward, forward_calls = await self.compare_in_order(pair.prompt, first, second)
            backward, backward_calls = await self.compare_in_order(pair.prompt, second, first)
        value, order_dependent = combine_orders(forward, backward)
        return PairVerdict(
            value=value,
            order_dependent=order_dependent,
            has_judge_directed_text=any(map(find_judge_directed_spans, texts)),
            calls=forward_calls + backward_calls,
        )

    async def compare_in_order(self, prompt: str, first: str, second: str) -> tuple[str | None, int]:
        """first, second or tie (None without a valid answer), and the number of calls."""
        judge, sampling = self.judge.judge, asdict(self.judge.config.sampling)
        parts = [judge.name, judge.endpoint, self.rubric.hash, prompt, first, second, sampling]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
        record = self.cache.get(key)
        if record is not None:
            return record["better"], 0
        texts = {"prompt": prompt, "first": first, "second": second}
        outcome = await ask(self.judge, self.rubric, texts, salt=self.salt, key=key)
        better = outcome.answer.choices["better"] if outcome.answer else None
        if outcome.state != "error":
            self.cache.add(key, {"better": better, "state": outcome.state})
        return better, outcome.calls


def combine_orders(forward: str | None, backward: str | None) -> tuple[float | None, bool]:
    """The value of a pair from both orders' answers, and whether one order contradicts the other."""
    if forward is None or backward is None:
        return None, False
    forward_value, backward_value = VALUES[forward], 1 - VALUES[backward]
    mean = (forward_value + backward_value) / 2
    value = 1.0 if mean > 0.5 else 0.0 if mean < 0.5 else 0.5
    return value, abs(forward_value - backward_value) == 1
