"""The work of a run: every item to every judge, as many at once as each takes, what is finished kept.

In: items, judges, a rubric, a journal. Out: Judgements.
Beware: a judgement in state error is not kept: the next run asks again. All others are never asked twice.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from smalltale.errors import SmalltaleError
from smalltale.judging.ask import AskOutcome, RateLimitedJudge, ask
from smalltale.judging.cache import JudgementCache
from smalltale.judging.config import JudgingConfig
from smalltale.judging.cost import Spending
from smalltale.judging.item import Item, cache_key, index_by_cache_key
from smalltale.judging.judge import Judge, JudgeUnusable
from smalltale.judging.judgement import Judgement
from smalltale.judging.prompt_injection import MAX_SCORE_GAIN
from smalltale.judging.rubric import Rubric

log = logging.getLogger(__name__)

MAX_CONSECUTIVE_ERRORS = 24
"""So many errors in a row, with nothing finished between them, stop a judge."""
PROGRESS_INTERVAL_SECONDS = 0.5


@dataclass
class JudgingExecutor:
    """One run's work and its counts."""

    rubric: Rubric
    config: JudgingConfig
    salt: str
    spending: Spending
    journal: JudgementCache
    calls: int = 0
    done: int = 0
    stopped: str = ""
    errors: dict[str, Judgement] = field(default_factory=dict)
    told: float = 0.0
    gates: dict[str, asyncio.Semaphore] = field(default_factory=dict)
    """By endpoint: two models of one provider share its room."""

    def all_items(self, items: Sequence[Item], judges: Sequence[Judge]) -> SmalltaleError | None:
        """Judge what is not judged yet. Returns why a judge could not go on, after all that could be done is kept."""
        total = len(items) * len(judges)

        async def work() -> list[SmalltaleError | None]:
            try:
                return await asyncio.gather(*(self.one_judge(items, each, total) for each in judges))
            finally:
                await asyncio.gather(*(each.close() for each in judges))

        failures = [each for each in asyncio.run(work()) if each is not None]
        self.tell(total, force=True)
        return failures[0] if failures else None

    async def one_judge(self, items: Sequence[Item], judge: Judge, total: int) -> SmalltaleError | None:
        """All items for one judge, so many at once as it takes."""
        line = RateLimitedJudge(judge, self.config.retry_policy)
        asked = index_by_cache_key(items, judge.name, judge.endpoint, self.rubric, self.config.sampling)
        waiting = {key: item for key, item in asked.items() if self.journal.get(key) is None}
        self.done += len(items) - len(waiting)
        queue, hopeless, reason = iter(waiting.items()), [0], [""]
        gate = self.gates.setdefault(judge.endpoint, asyncio.Semaphore(judge.concurrency))

        async def next_ones(most: int | None = None) -> None:
            for key, item in itertools.islice(queue, most):
                if hopeless[0] >= MAX_CONSECUTIVE_ERRORS:
                    return
                async with gate:
                    dollars = self.spending.estimate_max_dollars(
                        judge.name, self.rubric, f"{item.prompt} {item.completion}"
                    )
                    if not self.spending.reserve(dollars):
                        self.stopped = f"the budget of ${self.config.budget_dollars:g} allows no further call"
                        return
                    try:
                        judgement = await self.one(line, key, item)
                    finally:
                        self.spending.release(dollars)
                self.keep(judgement)
                hopeless[0] = hopeless[0] + 1 if judgement.state == "error" else 0
                reason[0] = judgement.reason or reason[0]
                self.tell(total)

        workers: list[asyncio.Task[None]] = []
        try:
            # A wrong key, an unknown model, a judge without logprobs: found out by one call.
            await next_ones(1)
            workers += [
                asyncio.create_task(next_ones()) for _ in range(min(judge.concurrency, len(waiting) - 1))
            ]
            await asyncio.gather(*workers)
        except JudgeUnusable as error:
            return error
        finally:
            for each in workers:
                each.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        if hopeless[0] >= MAX_CONSECUTIVE_ERRORS:
            return SmalltaleError(
                f"judge {judge.name}: {MAX_CONSECUTIVE_ERRORS} judgements in a row ended in an error, the last: {reason[0]}; what was finished "
                f"is kept, run the same command again when it answers"
            )
        return None

    def keep(self, judgement: Judgement) -> None:
        """Into the journal, unless it is to be asked again another time."""
        self.calls += judgement.calls
        self.done += 1
        self.spending.add(judgement.judge, judgement.input_tokens, judgement.output_tokens)
        if judgement.state == "error":
            self.errors[judgement.key] = judgement
        else:
            self.journal.add(judgement.key, judgement)

    async def one(self, line: RateLimitedJudge, key: str, item: Item) -> Judgement:
        """One completion; where it speaks to the judge, once more without that, and what it gained is taken back."""
        outcome = await self.asked(line, key, item.prompt, item.shown)
        flags: tuple[str, ...] = ()
        as_written = None
        if item.without_judge_directed_text is not None and outcome.state != "error":
            plain = await self.asked(line, f"{key}:plain", item.prompt, item.without_judge_directed_text)
            plain.calls += outcome.calls
            plain.input_tokens += outcome.input_tokens
            plain.output_tokens += outcome.output_tokens
            flags = ("speaks to the judge",)
            before, after = self.overall(outcome), self.overall(plain)
            as_written = before
            if plain.state == "error" or before is None or after is None or before - after > MAX_SCORE_GAIN:
                flags += ("the score jumped by it",) if before is not None and after is not None else ()
                outcome = plain
            else:
                outcome.calls, outcome.input_tokens, outcome.output_tokens = (
                    plain.calls, plain.input_tokens, plain.output_tokens,
                )  # fmt: skip
        answer = outcome.answer
        return Judgement(
            prompt=item.prompt,
            sample=item.sample,
            judge=line.judge.name,
            rubric=self.rubric.name,
            rubric_hash=self.rubric.hash,
            state=outcome.state,
            overall=self.overall(outcome),
            scores=answer.scores if answer else {},
            weighted=outcome.weighted,
            age=answer.choices.get("age") if answer else None,
            words="\n".join(answer.words.values()) if answer else "",
            reason=outcome.reason,
            flags=flags,
            overall_as_written=as_written,
            calls=outcome.calls,
            input_tokens=outcome.input_tokens,
            output_tokens=outcome.output_tokens,
            key=key,
        )

    async def asked(self, line: RateLimitedJudge, key: str, prompt: str, completion: str) -> AskOutcome:
        texts = {"prompt": prompt, "completion": completion}
        return await ask(line, self.rubric, texts, sampling=self.config.sampling, salt=self.salt, key=key)

    def key(self, judge: Judge, item: Item) -> str:
        return cache_key(judge.name, judge.endpoint, self.rubric, item, self.config.sampling)

    def overall(self, outcome: AskOutcome) -> float | None:
        return self.rubric.overall(outcome.answer.scores) if outcome.answer else None

    def judgements(self, items: Sequence[Item], judges: Sequence[Judge]) -> list[Judgement]:
        """The finished judgements in the order of the items, then of the judges."""
        found = []
        for item in items:
            for judge in judges:
                key = self.key(judge, item)
                record = self.journal.get(key)
                kept = asdict(self.errors[key]) if key in self.errors else record
                if kept is not None:
                    place = {"prompt": item.prompt, "sample": item.sample, "flags": tuple(kept["flags"])}
                    found.append(Judgement(**{**kept, **place}))
        return found

    def tell(self, total: int, *, force: bool = False) -> None:
        """Move the bar, a few times a second at most."""
        now = time.monotonic()
        if force or now - self.told >= PROGRESS_INTERVAL_SECONDS:
            self.told = now
            log.info("judging", extra={"done": min(self.done, total), "total": total, "unit": "judgements"})
