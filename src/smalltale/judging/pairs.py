"""Pairwise verdicts: two completions of one prompt, in both orders.

In: pairs of texts. Out: for each pair who won, and whether the order decided.
Beware: a verdict that changes with the order is a tie, and is counted as position bias.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from smalltale.judging.asking import Line, Patience, ask
from smalltale.judging.judge import Judge, Sampling
from smalltale.judging.rubric import Rubric

VALUES = {"first": 1.0, "tie": 0.5, "second": 0.0}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two completions of one prompt."""

    prompt: str
    one: str
    other: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`value`: 1 where `one` won, 0 where `other` did, 0.5 for a tie; None where an order has no valid answer."""

    value: float | None
    order_decided: bool = False
    calls: int = 0


def compare_pairs(
    pairs: Sequence[Pair],
    judge: Judge,
    rubric: Rubric,
    sampling: Sampling,
    salt: str,
    *,
    patience: Patience | None = None,
) -> list[Verdict]:
    """A verdict for each pair."""
    line = Line(judge, patience or Patience())

    async def one(pair: Pair, gate: asyncio.Semaphore) -> Verdict:
        async with gate:
            there = await once(line, rubric, pair.prompt, pair.one, pair.other, sampling, salt)
            back = await once(line, rubric, pair.prompt, pair.other, pair.one, sampling, salt)
        calls = there[1] + back[1]
        if there[0] is None or back[0] is None:
            return Verdict(value=None, calls=calls)
        forth, turned = VALUES[there[0]], 1 - VALUES[back[0]]
        if abs(forth - turned) == 1:
            return Verdict(value=0.5, order_decided=True, calls=calls)
        mean = (forth + turned) / 2
        return Verdict(value=1.0 if mean > 0.5 else 0.0 if mean < 0.5 else 0.5, calls=calls)

    async def work() -> list[Verdict]:
        gate = asyncio.Semaphore(judge.concurrency)
        try:
            return await asyncio.gather(*(one(pair, gate) for pair in pairs))
        finally:
            await judge.close()

    return asyncio.run(work())


async def once(
    line: Line, rubric: Rubric, prompt: str, first: str, second: str, sampling: Sampling, salt: str
) -> tuple[str | None, int]:
    """One order: first, second or tie (None without a valid answer), and the calls made."""
    parts = [line.judge.name, line.judge.endpoint, rubric.hash, prompt, first, second, asdict(sampling)]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    texts = {"prompt": prompt, "first": first, "second": second}
    outcome = await ask(line, rubric, texts, sampling=sampling, salt=salt, key=key)
    return (outcome.answer.choices["better"] if outcome.answer else None), outcome.calls
