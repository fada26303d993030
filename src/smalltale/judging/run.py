"""Judge a submission: every completion by every judge, resumable after each judgement.

Input: a submission, judges, a rubric. Output: a judgements folder (folder.py), or judgements in memory (judge_items).
Note: judgements of an earlier run are in the folder's journal and are not paid for again.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from smalltale.errors import SmalltaleError
from smalltale.files import (
    provenance_record,
    read_json,
    refuse_foreign_folder,
    sha256_file,
    translate_os_errors,
    write_json,
)
from smalltale.judging.cache import JudgementCache
from smalltale.judging.config import JudgingConfig
from smalltale.judging.cost import Price, Spending
from smalltale.judging.executor import JudgingExecutor
from smalltale.judging.folder import META, TABLE, write_table
from smalltale.judging.item import Item, items_from_rows
from smalltale.judging.judge import Judge
from smalltale.judging.judgement import Judgement
from smalltale.judging.panel import Calibration, calibrate, may_rank, panel_weights
from smalltale.judging.rubric import Rubric, RubricError
from smalltale.submission import read_submission

JOURNAL = "journal.jsonl"


@dataclass(frozen=True, kw_only=True)
class JudgingSummary:
    """Counts and cost of a run."""

    judged: int
    """Judgements with a score."""
    expected: int
    states: Mapping[str, int]
    calls: int
    """Calls of this run; judgements of earlier runs cost none."""
    dollars: float | None
    qualified: bool
    """Whether every judge may rank."""
    stopped: str
    """Why the run ended early; empty if it did not."""
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
    """Judge a submission into `out`, continuing a stopped run there. Only judges with a calibration may rank.

    Raises SmalltaleError where a judge is unusable or no judgement has a score; finished judgements are saved.
    """
    config, started = config or JudgingConfig(), time.monotonic()
    items = items_from_rows(read_submission(submission))
    refuse_foreign_folder(out)
    salt = load_or_create_salt(out)
    spending = Spending(prices or {}, config.budget_dollars)
    with JudgementCache(cache or out / JOURNAL) as judgement_cache:
        judged = judge_items(items, judges, rubric, judgement_cache, config, salt=salt, spending=spending)
    names, calibrations = [judge.name for judge in judges], calibrations or {}
    judgements = calibrate(judged.judgements, names, calibrations)
    texts = {(item.prompt, item.sample): item.completion for item in items}
    rows = [
        {
            **asdict(judgement),
            "submission": submission.name,
            "completion": texts[judgement.prompt, judgement.sample],
        }
        for judgement in judgements
    ]
    write_table(out / TABLE, rows, list(rubric.criteria))
    states = Counter(judgement.state for judgement in judgements)
    summary = JudgingSummary(
        judged=states["ok"],
        expected=len(items) * len(judges),
        states={str(state): count for state, count in states.items()},
        calls=judged.calls,
        dollars=spending.dollars,
        qualified=may_rank(names, calibrations),
        stopped=judged.stopped,
        seconds=time.monotonic() - started,
    )
    weights = panel_weights(names, calibrations)
    judge_records = [
        {
            "name": name,
            "qualified": may_rank([name], calibrations),
            "weight": weights.get(name),
            "price": asdict(prices[name]) if prices and name in prices else None,
        }
        for name in names
    ]
    write_json(out / META, build_meta(submission, rubric, config, salt, judge_records, summary, spending))
    judged.raise_without_score()
    return summary


@dataclass(frozen=True, kw_only=True)
class JudgedItems:
    """Judgements of some items, and why a judge or the budget stopped before the last of them."""

    judgements: Sequence[Judgement]
    """In the order of the items, then of the judges; items that a judge did not reach are missing."""
    failure: SmalltaleError | None
    """Why a judge stopped: it is unusable (wrong key, unknown model), or too many calls in a row failed."""
    stopped: str
    """Why the budget stopped the run; empty if it did not."""
    calls: int
    """Calls made now, without those of cached judgements."""

    def raise_without_score(self) -> None:
        """Raise `failure`, or SmalltaleError where no judgement has a score although the budget stopped nothing."""
        if self.failure is not None:
            raise self.failure
        states = Counter(str(judgement.state) for judgement in self.judgements)
        if not states["ok"] and not self.stopped:
            reasons = Counter(judgement.reason for judgement in self.judgements).most_common(1)
            raise SmalltaleError(
                f"no judgement of {len(self.judgements)} has a score ({dict(states)}); most often: "
                f"{reasons[0][0] if reasons else 'none'}; fix the judge's settings and run the same command again"
            )


def judge_items(
    items: Sequence[Item],
    judges: Sequence[Judge],
    rubric: Rubric,
    cache: JudgementCache | None = None,
    config: JudgingConfig | None = None,
    *,
    salt: str | None = None,
    spending: Spending | None = None,
) -> JudgedItems:
    """Judge each item by each judge in memory. Blocks until all are judged, in an event loop of its own.

    `cache` must be open; it saves every judgement as soon as it is finished. `salt` is the secret behind delimiters and
    nonces, random by default. A judge's failure is returned, not raised, so that finished judgements are not lost.
    """
    config = config or JudgingConfig()
    executor = JudgingExecutor(
        rubric,
        config,
        salt or secrets.token_hex(16),
        spending or Spending({}, config.budget_dollars),
        cache or JudgementCache(),
    )
    failure = executor.judge_all(items, judges)
    return JudgedItems(
        judgements=executor.collect_judgements(items, judges),
        failure=failure,
        stopped=executor.stopped,
        calls=executor.calls,
    )


def require_scoring_rubric(rubric: Rubric) -> Rubric:
    """Return the rubric if it scores single completions. Raises RubricError."""
    if rubric.kind != "scores":
        raise RubricError(f"rubric {rubric.name} compares pairs; choose one that scores, for example paper")
    return rubric


def load_or_create_salt(out: Path) -> str:
    """The run's secret salt, created once and saved in meta.json for resuming. Raises SmalltaleError."""
    with translate_os_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    if (out / META).exists():
        meta = read_json(out / META)
        if isinstance(meta, dict) and meta.get("kind") == "judgements" and meta.get("salt"):
            return str(meta["salt"])
        raise SmalltaleError(f"{out} is not a judgements folder; choose a new or empty folder")
    salt = secrets.token_hex(16)
    write_json(out / META, {"kind": "judgements", "format": 1, "salt": salt, "finished": False})
    return salt


def build_meta(
    submission: Path,
    rubric: Rubric,
    config: JudgingConfig,
    salt: str,
    judges: Sequence[Mapping[str, Any]],
    summary: JudgingSummary,
    spending: Spending,
) -> dict[str, Any]:
    """The content of a judgements folder's meta.json."""
    declaration_path, tokens = submission.with_name("submission.json"), spending.tokens
    return {
        **provenance_record(
            recipe=asdict(config),
            inputs={"submission": sha256_file(submission)},
            counts={"judged": summary.judged, "expected": summary.expected, **summary.states},
            seconds=summary.seconds,
        ),
        "kind": "judgements",
        "format": 1,
        "name": submission.parent.name or submission.stem,
        "submission": read_json(declaration_path) if declaration_path.exists() else {},
        "rubric": {"name": rubric.name, "version": rubric.version, "hash": rubric.hash},
        "judges": judges,
        "qualified": summary.qualified,
        "expected": summary.expected,
        "finished": sum(summary.states.values()) == summary.expected and not summary.states.get("error"),
        "stopped": summary.stopped,
        "tokens": {name: {"input": sent, "output": received} for name, (sent, received) in tokens.items()},
        "dollars": summary.dollars,
        "salt": salt,
    }
