"""Pairwise verdicts: two completions of one prompt, in both orders.

In: pairs of texts. Out: for each pair who won, and whether the order decided.
Beware: a verdict that changes with the order is a tie, and is counted as position bias. Sentences that speak to the judge
are left out of both texts before it is asked.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from smalltale.judging.ask import RateLimitedJudge, RetryPolicy, ask
from smalltale.judging.cache import JudgementCache
from smalltale.judging.judge import Judge, Sampling
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
    """`value`: 1 where `one` won, 0 where `other` did, 0.5 for a tie; None where an order has no valid answer."""

    value: float | None
    order_dependent: bool = False
    has_judge_directed_text: bool = False
    """Whether one of the two speaks to its judge."""
    calls: int = 0


def compare_pairs(
    pairs: Sequence[CompletionPair],
    judge: Judge,
    rubric: Rubric,
    sampling: Sampling,
    salt: str,
    *,
    retry_policy: RetryPolicy | None = None,
    cache: JudgementCache | None = None,
) -> list[PairVerdict]:
    """A verdict for each pair. What an open `journal` holds is not asked again."""
    asker = Asker(RateLimitedJudge(judge, retry_policy or RetryPolicy()), rubric, sampling, salt, cache)

    async def one(pair: CompletionPair, gate: asyncio.Semaphore) -> PairVerdict:
        async with gate:
            one, other = (remove_judge_directed_text(neutralise(each)) for each in (pair.first, pair.second))
            there, first_calls = await asker.once(pair.prompt, one, other)
            back, second_calls = await asker.once(pair.prompt, other, one)
        spoken = any(find_judge_directed_spans(neutralise(each)) for each in (pair.first, pair.second))
        told = PairVerdict(value=None, has_judge_directed_text=spoken, calls=first_calls + second_calls)
        if there is None or back is None:
            return told
        forth, turned = VALUES[there], 1 - VALUES[back]
        mean = (forth + turned) / 2
        value = 1.0 if mean > 0.5 else 0.0 if mean < 0.5 else 0.5
        return replace(told, value=value, order_dependent=abs(forth - turned) == 1)

    async def work() -> list[PairVerdict]:
        gate = asyncio.Semaphore(judge.concurrency)
        try:
            return await asyncio.gather(*(one(pair, gate) for pair in pairs))
        finally:
            await judge.close()

    return asyncio.run(work())


@dataclass(frozen=True)
class Asker:
    """One judge, asked in one order at a time."""

    line: RateLimitedJudge
    rubric: Rubric
    sampling: Sampling
    salt: str
    journal: JudgementCache | None

    async def once(self, prompt: str, first: str, second: str) -> tuple[str | None, int]:
        """first, second or tie (None without a valid answer), and the calls made."""
        judge = self.line.judge
        parts = [judge.name, judge.endpoint, self.rubric.hash, prompt, first, second, asdict(self.sampling)]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
        kept = self.journal.get(key) if self.journal is not None else None
        if kept is not None:
            return kept["better"], 0
        texts = {"prompt": prompt, "first": first, "second": second}
        outcome = await ask(self.line, self.rubric, texts, sampling=self.sampling, salt=self.salt, key=key)
        better = outcome.answer.choices["better"] if outcome.answer else None
        if self.journal is not None and outcome.state != "error":
            self.journal.add(key, {"better": better, "state": outcome.state})
        return better, outcome.calls
