"""Judge a hand-in: every completion by every judge, kept as it comes, taken up where it stopped.

In: a submission file, judges, a rubric. Out: a judgements folder (docs/formats.md).
Beware: the journal keeps each finished judgement; an answer is asked for once more where it cannot be read.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from smalltale.errors import SmalltaleError
from smalltale.files import (
    explained,
    new_file,
    provenance,
    read_json,
    refuse_foreign_folder,
    sha256_of,
    write_json,
)
from smalltale.judging.judge import Judge, JudgeError
from smalltale.judging.judgement import Judgement, NotReadable, is_refusal, read_answer
from smalltale.judging.rubric import Rubric
from smalltale.submission import Completion, read_submission

log = logging.getLogger(__name__)

AT_ONCE = 4
"""Requests to one judge at the same time."""


@dataclass(frozen=True, kw_only=True)
class JudgingSummary:
    """What a run gave."""

    judgements: int
    states: dict[str, int]
    qualified: bool
    seconds: float


def judge_submission(submission: Path, judges: Sequence[Judge], rubric: Rubric, out: Path) -> JudgingSummary:
    """Write the judgements folder `out`. Raises SmalltaleError where every judgement of a judge failed."""
    began = time.monotonic()
    rows = read_submission(submission)
    refuse_foreign_folder(out)
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
    declared_path = submission.with_name("submission.json")
    declared = read_json(declared_path) if declared_path.exists() else {}
    meta = {
        "kind": "judgements",
        "format": 1,
        "name": submission.stem,
        "submission": declared,
        "expected": len(rows) * len(judges),
        "qualified": all(judge.qualified for judge in judges),
        "judges": [judge.name for judge in judges],
        "rubric": {"name": rubric.name, "version": rubric.version, "hash": rubric.hash},
    }
    write_json(out / "meta.json", meta)
    journal = Journal(out / "journal.jsonl")
    judgements = asyncio.run(judge_all(rows, judges, rubric, journal))
    write_judgements(out / "judgements.parquet", judgements, rubric)
    states = Counter(each.state for each in judgements)
    inputs = {"submission": sha256_of(submission)}
    record = provenance(inputs=inputs, counts=dict(states), seconds=time.monotonic() - began)
    write_json(out / "meta.json", {**record, **meta})
    if not states["ok"]:
        example = next(each.words for each in judgements)
        raise SmalltaleError(
            f"none of {len(judgements)} judgements could be used, for example: {example}; check the judge and run again"
        )
    return JudgingSummary(
        judgements=len(judgements),
        states=dict(states),
        qualified=bool(meta["qualified"]),
        seconds=time.monotonic() - began,
    )


class Journal:
    """Finished judgements, a line each; a line cut off by a kill is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[str, dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError:
                    continue
                self.done[entry["key"]] = entry["judgement"]
            with new_file(path) as temporary:
                lines = (
                    json.dumps({"key": key, "judgement": each}) + "\n" for key, each in self.done.items()
                )
                temporary.write_text("".join(lines), encoding="utf-8")

    def keep(self, key: str, judgement: Judgement) -> None:
        """Add one finished judgement."""
        with self.path.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"key": key, "judgement": asdict(judgement)}) + "\n")


async def judge_all(
    rows: Sequence[Completion], judges: Sequence[Judge], rubric: Rubric, journal: Journal
) -> list[Judgement]:
    """Every row by every judge, in the order of the rows."""
    seen: Counter[str] = Counter()
    work: list[tuple[Judge, Completion, int]] = []
    for row in rows:
        work += [(judge, row, seen[row.prompt]) for judge in judges]
        seen[row.prompt] += 1
    gates = {judge.name: asyncio.Semaphore(AT_ONCE) for judge in judges}
    finished = 0

    async def one(judge: Judge, row: Completion, sample: int) -> Judgement:
        nonlocal finished
        key = key_of(judge, rubric, row)
        if key in journal.done:
            judgement = Judgement(**{**journal.done[key], "sample": sample})
        else:
            async with gates[judge.name]:
                judgement = await judge_one(judge, row, sample, rubric, key[:12])
            if judgement.state in {"ok", "unparsable", "refused"}:
                journal.keep(key, judgement)
        finished += 1
        log.info("judging", extra={"done": finished, "total": len(work), "unit": "judgements"})
        return judgement

    return list(await asyncio.gather(*(one(*each) for each in work)))


def key_of(judge: Judge, rubric: Rubric, row: Completion) -> str:
    """What makes a judgement the same one."""
    told = "\x00".join((judge.name, rubric.hash, row.prompt, row.completion))
    return hashlib.sha256(told.encode()).hexdigest()


async def judge_one(judge: Judge, row: Completion, sample: int, rubric: Rubric, nonce: str) -> Judgement:
    """One judgement, asked for once more where the answer cannot be read."""
    began = time.monotonic()
    common: dict[str, Any] = {
        "prompt": row.prompt,
        "completion": row.completion,
        "sample": sample,
        "judge": judge.name,
        "rubric": rubric.name,
        "rubric_hash": rubric.hash,
    }
    question, missing = rubric.question(row.prompt, row.completion, nonce), ""
    spent_in = spent_out = 0
    for _ in range(2):
        again = f"\nYour last answer could not be used: {missing}." if missing else ""
        try:
            reply = await judge.ask(question + again, rubric.schema())
        except JudgeError as error:
            return Judgement(**common, state="error", words=str(error), seconds=time.monotonic() - began)
        spent_in, spent_out = spent_in + reply.input_tokens, spent_out + reply.output_tokens
        spent: dict[str, Any] = {"input_tokens": spent_in, "output_tokens": spent_out, "seconds": time.monotonic() - began}
        if is_refusal(reply.text):
            return Judgement(**common, state="refused", words=reply.text[:500], **spent)
        try:
            answer = read_answer(reply.text, rubric, nonce)
        except NotReadable as error:
            missing = str(error)
            continue
        return Judgement(
            **common, state="ok", scores=answer.scores, age=answer.age, words=answer.assessment, **spent
        )
    return Judgement(**common, state="unparsable", words=missing, **spent)


def write_judgements(path: Path, judgements: Sequence[Judgement], rubric: Rubric) -> None:
    """judgements.parquet; `scores` is a struct with a nullable number for each criterion."""
    scores = pa.struct([(name, pa.float64()) for name in rubric.criteria])
    columns: dict[str, Any] = {}
    for name in (
        "prompt",
        "completion",
        "sample",
        "judge",
        "rubric",
        "rubric_hash",
        "state",
        "overall",
        "age",
        "words",
        "input_tokens",
        "output_tokens",
        "seconds",
    ):
        columns[name] = [getattr(each, name) for each in judgements]
    columns["scores"] = pa.array([each.scores or None for each in judgements], scores)
    with new_file(path) as temporary:
        pq.write_table(pa.table(columns), temporary)
