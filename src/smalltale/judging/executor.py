"""Runs a judging job: every item by every judge, at each judge's concurrency; finished judgements go to the cache.

Input: items, judges, a rubric, an open cache. Output: Judgements.
Note: a judgement in state error is not cached, so that the next run asks again. All other states are final.
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
"""A judge is stopped after this many judgements in a row that ended in an error."""
PROGRESS_INTERVAL_SECONDS = 0.5


@dataclass
class JudgingExecutor:
    """One judging job and its counts."""

    rubric: Rubric
    config: JudgingConfig
    salt: str
    spending: Spending
    cache: JudgementCache
    calls: int = 0
    finished: int = 0
    stopped: str = ""
    """Why the budget ended the job early."""
    errors: dict[str, Judgement] = field(default_factory=dict)
    """Judgements in state error, by cache key."""
    reported_at: float = 0.0
    semaphores: dict[str, asyncio.Semaphore] = field(default_factory=dict)
    """By endpoint: two models of one provider share its concurrency."""

    def judge_all(self, items: Sequence[Item], judges: Sequence[Judge]) -> SmalltaleError | None:
        """Judge all that is not cached. Returns the first judge's failure; the other judges finish regardless."""
        total = len(items) * len(judges)

        async def run_judges() -> list[SmalltaleError | None]:
            try:
                return await asyncio.gather(*(self.run_judge(items, judge, total) for judge in judges))
            finally:
                await asyncio.gather(*(judge.close() for judge in judges))

        failures = [failure for failure in asyncio.run(run_judges()) if failure is not None]
        self.report_progress(total, force=True)
        return failures[0] if failures else None

    async def run_judge(self, items: Sequence[Item], judge: Judge, total: int) -> SmalltaleError | None:
        """All items for one judge, as many at once as its concurrency allows. Returns why it failed."""
        limited_judge = RateLimitedJudge(judge, self.config)
        items_by_key = index_by_cache_key(
            items, judge.name, judge.endpoint, self.rubric, self.config.sampling
        )
        pending = {key: item for key, item in items_by_key.items() if self.cache.get(key) is None}
        self.finished += len(items) - len(pending)
        queue = iter(pending.items())
        semaphore = self.semaphores.setdefault(judge.endpoint, asyncio.Semaphore(judge.concurrency))
        consecutive_errors, last_reason = 0, ""

        async def judge_pending(limit: int | None = None) -> None:
            nonlocal consecutive_errors, last_reason
            for key, item in itertools.islice(queue, limit):
                if consecutive_errors >= MAX_CONSECUTIVE_ERRORS:
                    return
                async with semaphore:
                    text = f"{item.prompt} {item.completion}"
                    dollars = self.spending.estimate_max_dollars(judge.name, self.rubric, text)
                    if not self.spending.reserve(dollars):
                        self.stopped = f"the budget of ${self.config.budget_dollars:g} allows no further call"
                        return
                    try:
                        judgement = await self.judge_item(limited_judge, key, item)
                    finally:
                        self.spending.release(dollars)
                self.save(judgement)
                consecutive_errors = consecutive_errors + 1 if judgement.state == "error" else 0
                last_reason = judgement.reason or last_reason
                self.report_progress(total)

        tasks: list[asyncio.Task[None]] = []
        try:
            # One call first: it finds a wrong key, an unknown model or missing logprobs before many calls fail.
            await judge_pending(1)
            tasks += [
                asyncio.create_task(judge_pending()) for _ in range(min(judge.concurrency, len(pending) - 1))
            ]
            await asyncio.gather(*tasks)
        except JudgeUnusable as error:
            return error
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if consecutive_errors >= MAX_CONSECUTIVE_ERRORS:
            return SmalltaleError(
                f"judge {judge.name}: {MAX_CONSECUTIVE_ERRORS} judgements in a row ended in an error, the last: {last_reason}; "
                "finished judgements are saved, run the same command again when the judge answers"
            )
        return None

    def save(self, judgement: Judgement) -> None:
        """Cache a judgement, or remember its error."""
        self.calls += judgement.calls
        self.finished += 1
        self.spending.add(judgement.judge, judgement.input_tokens, judgement.output_tokens)
        if judgement.state == "error":
            self.errors[judgement.key] = judgement
        else:
            self.cache.add(judgement.key, asdict(judgement))

    async def judge_item(self, judge: RateLimitedJudge, key: str, item: Item) -> Judgement:
        """Judge one completion; where it speaks to the judge, also without those sentences, and undo what they gained."""
        outcome = await self.ask_about(judge, key, item.prompt, item.shown)
        outcomes, flags, as_written = [outcome], list[str](), None
        if item.without_judge_directed_text is not None and outcome.state != "error":
            cleaned = await self.ask_about(
                judge, f"{key}:plain", item.prompt, item.without_judge_directed_text
            )
            outcomes.append(cleaned)
            flags.append("speaks to the judge")
            as_written, cleaned_score = self.overall(outcome), self.overall(cleaned)
            if as_written is None or cleaned_score is None:
                outcome = cleaned
            elif as_written - cleaned_score > MAX_SCORE_GAIN:
                flags.append("the score jumped by it")
                outcome = cleaned
        answer = outcome.answer
        return Judgement(
            prompt=item.prompt,
            sample=item.sample,
            judge=judge.judge.name,
            rubric=self.rubric.name,
            rubric_hash=self.rubric.hash,
            state=outcome.state,
            overall=self.overall(outcome),
            scores=answer.scores if answer else {},
            weighted=outcome.weighted,
            age=answer.choices.get("age") if answer else None,
            words="\n".join(answer.words.values()) if answer else "",
            reason=outcome.reason,
            flags=tuple(flags),
            overall_as_written=as_written,
            calls=sum(asked.calls for asked in outcomes),
            input_tokens=sum(asked.input_tokens for asked in outcomes),
            output_tokens=sum(asked.output_tokens for asked in outcomes),
            key=key,
        )

    async def ask_about(self, judge: RateLimitedJudge, key: str, prompt: str, completion: str) -> AskOutcome:
        texts = {"prompt": prompt, "completion": completion}
        return await ask(judge, self.rubric, texts, salt=self.salt, key=key)

    def overall(self, outcome: AskOutcome) -> float | None:
        return self.rubric.overall(outcome.answer.scores) if outcome.answer else None

    def collect_judgements(self, items: Sequence[Item], judges: Sequence[Judge]) -> list[Judgement]:
        """The finished judgements in the order of the items, then of the judges."""
        judgements = []
        for item in items:
            for judge in judges:
                key = cache_key(judge.name, judge.endpoint, self.rubric, item, self.config.sampling)
                record = asdict(self.errors[key]) if key in self.errors else self.cache.get(key)
                if record is not None:
                    # Equal completions share a cache entry, which has the sample of the first.
                    own = {"prompt": item.prompt, "sample": item.sample, "flags": tuple(record["flags"])}
                    judgements.append(Judgement(**{**record, **own}))
        return judgements

    def report_progress(self, total: int, *, force: bool = False) -> None:
        """Update the progress bar, at most every PROGRESS_INTERVAL_SECONDS."""
        now = time.monotonic()
        if force or now - self.reported_at >= PROGRESS_INTERVAL_SECONDS:
            self.reported_at = now
            log.info(
                "judging", extra={"done": min(self.finished, total), "total": total, "unit": "judgements"}
            )
