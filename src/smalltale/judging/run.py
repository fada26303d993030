"""Judge a submission: every completion by every judge, resumable to the item.

In: a hand-in, judges, a rubric. Out: a judgements folder (folder.py).
Beware: what an earlier run finished is in the folder's journal and costs nothing again.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from smalltale.errors import SmalltaleError
from smalltale.files import explained, provenance, read_json, refuse_foreign_folder, sha256_of, write_json
from smalltale.judging.cache import Journal
from smalltale.judging.config import JudgingConfig
from smalltale.judging.cost import Price, Spending
from smalltale.judging.executor import Run
from smalltale.judging.folder import META, TABLE, write_table
from smalltale.judging.item import Item, items_of
from smalltale.judging.judge import Judge
from smalltale.judging.judgement import Judgement
from smalltale.judging.panel import Calibration, calibrate, may_rank, shares
from smalltale.judging.rubric import Rubric, RubricError
from smalltale.submission import read_submission

JOURNAL = "journal.jsonl"


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
    qualified: bool
    """Whether every judge may rank."""
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
    calibrations: Mapping[str, Calibration] | None = None,
    prices: Mapping[str, Price] | None = None,
    cache: Path | None = None,
) -> JudgingSummary:
    """Judge a hand-in into `out`; a stopped or grown run in it goes on. Only judges with a calibration may rank.

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
        finished = run.judgements(items, judges)
    names, known = [each.name for each in judges], calibrations or {}
    judgements = calibrate([each for each, _ in finished], names, known)
    rows = [
        {**asdict(each), "submission": submission.name, "completion": text}
        for each, (_, text) in zip(judgements, finished, strict=True)
    ]
    write_table(out / TABLE, rows, list(rubric.criteria))
    states = Counter(each.state for each in judgements)
    summary = JudgingSummary(
        judged=states["ok"],
        expected=len(items) * len(judges),
        states={str(state): count for state, count in states.items()},
        calls=run.calls,
        dollars=spending.dollars,
        qualified=may_rank(names, known),
        stopped=run.stopped,
        seconds=time.monotonic() - began,
    )
    weights = shares(names, known)
    told = [
        {
            "name": name,
            "qualified": may_rank([name], known),
            "weight": weights.get(name),
            "price": asdict(prices[name]) if prices and name in prices else None,
        }
        for name in names
    ]
    write_json(out / META, meta_of(submission, rubric, config, salt, told, summary, spending))
    if failure is not None:
        raise failure
    if not states["ok"] and not run.stopped:
        reasons = Counter(each.reason for each in judgements).most_common(1)
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


def meta_of(
    submission: Path,
    rubric: Rubric,
    config: JudgingConfig,
    salt: str,
    judges: Sequence[Mapping[str, Any]],
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
        "judges": judges,
        "qualified": summary.qualified,
        "expected": summary.expected,
        "finished": sum(summary.states.values()) == summary.expected and not summary.states.get("error"),
        "stopped": summary.stopped,
        "tokens": tokens,
        "dollars": summary.dollars,
        "salt": salt,
    }
