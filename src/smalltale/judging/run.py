"""Judge a submission: every completion by every judge, resumable to the item.

In: a hand-in, judges, a rubric. Out: a judgements folder (folder.py).
Beware: a judgement in state error is not kept: the next run asks again. All others are never asked twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from smalltale.errors import RecipeError, SmalltaleError
from smalltale.files import explained, provenance, read_json, refuse_foreign_folder, sha256_of, write_json
from smalltale.judging.asking import Line, Outcome, Patience, ask
from smalltale.judging.cost import Price, Spending
from smalltale.judging.folder import META, TABLE, write_table
from smalltale.judging.guard import JUMP, without_words_to_judge
from smalltale.judging.journal import Journal
from smalltale.judging.judge import Judge, JudgeUnusable, Sampling
from smalltale.judging.judgement import Judgement
from smalltale.judging.rubric import Rubric, RubricError
from smalltale.signals import judge_directed
from smalltale.submission import Completion, read_submission

log = logging.getLogger(__name__)

JOURNAL = "journal.jsonl"
HOPELESS = 24
"""So many errors in a row, with nothing finished between them, stop a judge."""
TOLD_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class JudgingConfig:
    """How a run asks."""

    temperature: float = 0.0
    """Of every judge's sampling, 0 to 2."""
    seed: int = 0
    """Sent with every request, and part of every cache key."""
    logprobs: bool = False
    """Ask for the probabilities of marks, for scores weighted by them."""
    attempts: int = 5
    """Calls for one answer before its judgement ends in error, at least 1."""
    first_wait_seconds: float = 1.0
    """Wait after a failed call where the judge asks for none; it doubles with each."""
    concurrency: int = 0
    """Requests at once to each judge; 0 leaves it to the judge."""
    budget_dollars: float = 0.0
    """Spend at most this much; 0 sets no bound."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 2:
            raise RecipeError(f"judging.temperature = {self.temperature}; choose 0 to 2")
        if self.attempts < 1:
            raise RecipeError(f"judging.attempts = {self.attempts}; choose at least 1")
        if self.concurrency < 0:
            raise RecipeError(f"judging.concurrency = {self.concurrency}; choose 0 or more")
        if self.first_wait_seconds < 0 or self.budget_dollars < 0:
            raise RecipeError("judging.first_wait_seconds and judging.budget_dollars are 0 or more")

    @property
    def patience(self) -> Patience:
        return Patience(attempts=self.attempts, first_wait_seconds=self.first_wait_seconds)

    @property
    def sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature, seed=self.seed, logprobs=self.logprobs)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One completion to be judged."""

    prompt: str
    completion: str
    sample: int


@dataclass(frozen=True, kw_only=True)
class JudgingSummary:
    """What a run came to."""

    judged: int
    """Judgements with a score."""
    expected: int
    states: Mapping[str, int]
    calls: int
    """Calls of this run alone; what was finished before cost nothing."""
    dollars: float | None
    stopped: str
    """Why the run ended early; empty where it did not."""
    seconds: float


def judge_submission(
    submission: Path,
    judges: Sequence[Judge],
    rubric: Rubric,
    out: Path,
    *,
    config: JudgingConfig | None = None,
    qualified: Sequence[str] = (),
    prices: Mapping[str, Price] | None = None,
    cache: Path | None = None,
) -> JudgingSummary:
    """Judge a hand-in into `out`; a stopped or grown run in it goes on. `qualified`: names of judges that may rank.

    Raises SmalltaleError where a judge is unusable or every call failed; what was finished is kept.
    """
    config, began = config or JudgingConfig(), time.monotonic()
    items = items_of(read_submission(submission))
    refuse_foreign_folder(out)
    salt = salt_of(out)
    spending = Spending(prices or {}, config.budget_dollars)
    run = Run(rubric, config, salt, spending)
    with Journal(cache or out / JOURNAL) as journal:
        run.journal = journal
        failure = run.all_items(items, judges)
        judgements = list(run.judgements(items, judges))
    rows = [{**asdict(each), "submission": submission.name, "completion": text} for each, text in judgements]
    write_table(out / TABLE, rows, list(rubric.criteria))
    states = Counter(each.state for each, _ in judgements)
    summary = JudgingSummary(
        judged=states["ok"],
        expected=len(items) * len(judges),
        states={str(state): count for state, count in states.items()},
        calls=run.calls,
        dollars=spending.dollars,
        stopped=run.stopped,
        seconds=time.monotonic() - began,
    )
    names = [each.name for each in judges]
    write_json(out / META, meta_of(submission, rubric, config, salt, names, qualified, summary, spending))
    if failure is not None:
        raise failure
    if not states["ok"] and not run.stopped:
        reasons = Counter(each.reason for each, _ in judgements).most_common(1)
        raise SmalltaleError(
            f"no judgement of {len(judgements)} has a score ({dict(states)}); most often: {reasons[0][0] if reasons else 'none'}; "
            f"mend the judge and run the same command again"
        )
    return summary


def judge_items(
    items: Sequence[Item], judge: Judge, rubric: Rubric, out: Path, config: JudgingConfig
) -> list[Judgement]:
    """Judge texts outside any hand-in, kept in `out`/journal.jsonl; one Judgement for each, in order."""
    run = Run(rubric, config, salt_of(out), Spending({}, 0.0))
    with Journal(out / JOURNAL) as run.journal:
        failure = run.all_items(items, [judge])
        if failure is not None:
            raise failure
        return [judgement for judgement, _ in run.judgements(items, [judge])]


def scoring(rubric: Rubric) -> Rubric:
    """The rubric, where it scores single completions. Raises RubricError."""
    if rubric.kind != "scores":
        raise RubricError(f"rubric {rubric.name} compares pairs; choose one that scores, for example paper")
    return rubric


def items_of(rows: Sequence[Completion]) -> list[Item]:
    """The rows with each completion's place among those of its prompt."""
    seen: Counter[str] = Counter()
    items = []
    for row in rows:
        items.append(Item(prompt=row.prompt, completion=row.completion, sample=seen[row.prompt]))
        seen[row.prompt] += 1
    return items


def salt_of(out: Path) -> str:
    """The run's secret, made once and kept for resuming."""
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
    if (out / META).exists():
        meta = read_json(out / META)
        if isinstance(meta, dict) and meta.get("kind") == "judgements" and meta.get("salt"):
            return str(meta["salt"])
        raise SmalltaleError(f"{out} holds another kind of artefact; choose a new or empty folder")
    salt = secrets.token_hex(16)
    write_json(out / META, {"kind": "judgements", "format": 1, "salt": salt, "finished": False})
    return salt


def key_of(judge: Judge, rubric: Rubric, item: Item, sampling: Sampling) -> str:
    """What makes two judgements the same one."""
    parts = [judge.name, judge.endpoint, rubric.hash, item.prompt, item.completion, asdict(sampling)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


@dataclass
class Run:
    """One run's work and its counts."""

    rubric: Rubric
    config: JudgingConfig
    salt: str
    spending: Spending
    journal: Journal = field(init=False)
    calls: int = 0
    done: int = 0
    stopped: str = ""
    errors: dict[str, Judgement] = field(default_factory=dict)
    told: float = 0.0

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
        line = Line(judge, self.config.patience)
        waiting: dict[str, Item] = {}
        for item in items:
            key = key_of(judge, self.rubric, item, self.config.sampling)
            if self.journal.get(key) is None:
                waiting.setdefault(key, item)
            else:
                self.done += 1
        queue = iter(waiting.items())
        hopeless = [0]

        async def worker() -> None:
            for key, item in queue:
                if self.stopped or hopeless[0] >= HOPELESS:
                    return
                if self.spending.spent_up():
                    self.stopped = f"the budget of ${self.config.budget_dollars:g} is spent"
                    return
                judgement = await self.one(line, key, item)
                self.keep(judgement)
                hopeless[0] = hopeless[0] + 1 if judgement.state == "error" else 0
                self.tell(total)

        workers = [asyncio.create_task(worker()) for _ in range(max(1, min(judge.concurrency, len(waiting))))]
        try:
            await asyncio.gather(*workers)
        except JudgeUnusable as error:
            return error
        finally:
            for each in workers:
                each.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        if hopeless[0] >= HOPELESS:
            return SmalltaleError(
                f"judge {judge.name}: {HOPELESS} calls in a row failed; what was finished is kept, "
                f"run the same command again when it answers"
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

    async def one(self, line: Line, key: str, item: Item) -> Judgement:
        """One completion; where it speaks to the judge, once more without that, and what it gained is taken back."""
        outcome = await self.asked(line, key, item.prompt, item.completion)
        flags: tuple[str, ...] = ()
        as_written = None
        if judge_directed(item.completion) and outcome.state in {"ok", "unparsable", "refused"}:
            plain = await self.asked(
                line, f"{key}:plain", item.prompt, without_words_to_judge(item.completion)
            )
            plain.calls += outcome.calls
            plain.input_tokens += outcome.input_tokens
            plain.output_tokens += outcome.output_tokens
            flags = ("speaks to the judge",)
            before, after = self.overall(outcome), self.overall(plain)
            as_written = before
            if plain.state == "error" or before is None or after is None or before - after > JUMP:
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

    async def asked(self, line: Line, key: str, prompt: str, completion: str) -> Outcome:
        texts = {"prompt": prompt, "completion": completion}
        return await ask(line, self.rubric, texts, sampling=self.config.sampling, salt=self.salt, key=key)

    def overall(self, outcome: Outcome) -> float | None:
        return self.rubric.overall(outcome.answer.scores) if outcome.answer else None

    def judgements(self, items: Sequence[Item], judges: Sequence[Judge]) -> Iterator[tuple[Judgement, str]]:
        """What is known of each item and judge, in the submission's order, with the completion."""
        for item in items:
            for judge in judges:
                key = key_of(judge, self.rubric, item, self.config.sampling)
                record = self.journal.get(key)
                kept = asdict(self.errors[key]) if key in self.errors else record
                if kept is not None:
                    place = {"prompt": item.prompt, "sample": item.sample, "flags": tuple(kept["flags"])}
                    yield Judgement(**{**kept, **place}), item.completion

    def tell(self, total: int, *, force: bool = False) -> None:
        """Move the bar, a few times a second at most."""
        now = time.monotonic()
        if force or now - self.told >= TOLD_SECONDS:
            self.told = now
            log.info("judging", extra={"done": min(self.done, total), "total": total, "unit": "judgements"})


def meta_of(
    submission: Path,
    rubric: Rubric,
    config: JudgingConfig,
    salt: str,
    names: Sequence[str],
    qualified: Sequence[str],
    summary: JudgingSummary,
    spending: Spending,
) -> dict[str, Any]:
    """meta.json of a judgements folder."""
    declared = submission.with_name("submission.json")
    tokens: dict[str, dict[str, int]] = defaultdict(dict)
    for name, (read, written) in spending.tokens.items():
        tokens[name] = {"input": read, "output": written}
    return {
        **provenance(
            recipe=asdict(config),
            inputs={"submission": sha256_of(submission)},
            counts={"judged": summary.judged, "expected": summary.expected, **summary.states},
            seconds=summary.seconds,
        ),
        "kind": "judgements",
        "format": 1,
        "name": submission.parent.name or submission.stem,
        "submission": read_json(declared) if declared.exists() else {},
        "rubric": {"name": rubric.name, "version": rubric.version, "hash": rubric.hash},
        "judges": [{"name": name, "qualified": name in qualified} for name in names],
        "qualified": bool(names) and all(name in qualified for name in names),
        "expected": summary.expected,
        "finished": sum(summary.states.values()) == summary.expected and not summary.states.get("error"),
        "stopped": summary.stopped,
        "tokens": tokens,
        "dollars": summary.dollars,
        "salt": salt,
    }
