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
    items = items_from_rows(read_submission(submission))
    refuse_foreign_folder(out)
    salt = load_salt(out)
    spending = Spending(prices or {}, config.budget_dollars)
    with JudgementCache(cache or out / JOURNAL) as opened:
        judged = judge_items(items, judges, rubric, opened, config, salt=salt, spending=spending)
    names, known = [each.name for each in judges], calibrations or {}
    judgements = calibrate(judged.judgements, names, known)
    texts = {(item.prompt, item.sample): item.completion for item in items}
    rows = [
        {**asdict(each), "submission": submission.name, "completion": texts[each.prompt, each.sample]}
        for each in judgements
    ]
    write_table(out / TABLE, rows, list(rubric.criteria))
    states = Counter(each.state for each in judgements)
    summary = JudgingSummary(
        judged=states["ok"],
        expected=len(items) * len(judges),
        states={str(state): count for state, count in states.items()},
        calls=judged.calls,
        dollars=spending.dollars,
        qualified=may_rank(names, known),
        stopped=judged.stopped,
        seconds=time.monotonic() - began,
    )
    weights = panel_weights(names, known)
    told = [
        {
            "name": name,
            "qualified": may_rank([name], known),
            "weight": weights.get(name),
            "price": asdict(prices[name]) if prices and name in prices else None,
        }
        for name in names
    ]
    write_json(out / META, build_meta(submission, rubric, config, salt, told, summary, spending))
    judged.raise_without_score()
    return summary


@dataclass(frozen=True, kw_only=True)
class JudgedItems:
    """The judgements of some items, and why a judge stopped before the last of them."""

    judgements: Sequence[Judgement]
    """In the order of the items, then of the judges; an item that a judge did not reach has none."""
    failure: SmalltaleError | None
    """Why a judge could not go on: a wrong key, or errors only."""
    stopped: str
    """Set where the budget allowed no further call."""
    calls: int
    """Calls made now; a cached judgement costs none."""

    def raise_without_score(self) -> None:
        """Raise the judge's failure, or SmalltaleError where no judgement has a score and no budget explains it."""
        if self.failure is not None:
            raise self.failure
        states = Counter(str(judgement.state) for judgement in self.judgements)
        if not states["ok"] and not self.stopped:
            reasons = Counter(judgement.reason for judgement in self.judgements).most_common(1)
            raise SmalltaleError(
                f"no judgement of {len(self.judgements)} has a score ({dict(states)}); most often: "
                f"{reasons[0][0] if reasons else 'none'}; correct the judge's settings and run the same command again"
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
    """Ask each judge about each item, in memory. Blocks until all are judged; runs its own event loop.

    `cache` must be open and saves every finished judgement at once; without one, nothing is saved. `salt` is the secret
    behind delimiters and nonces, a new one where it is None. A judgement that failed has state error; a judge that
    could not go on is in `failure` of what is returned, not raised, so that finished judgements are never lost.
    """
    config = config or JudgingConfig()
    run = JudgingExecutor(
        rubric,
        config,
        salt or secrets.token_hex(16),
        spending or Spending({}, config.budget_dollars),
        cache or JudgementCache(),
    )
    failure = run.all_items(items, judges)
    return JudgedItems(
        judgements=run.judgements(items, judges), failure=failure, stopped=run.stopped, calls=run.calls
    )


def require_scoring_rubric(rubric: Rubric) -> Rubric:
    """The rubric, where it scores single completions. Raises RubricError."""
    if rubric.kind != "scores":
        raise RubricError(f"rubric {rubric.name} compares pairs; choose one that scores, for example paper")
    return rubric


def load_salt(out: Path) -> str:
    """The run's secret, made once and kept for resuming."""
    with translate_os_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    if (out / META).exists():
        meta = read_json(out / META)
        if isinstance(meta, dict) and meta.get("kind") == "judgements" and meta.get("salt"):
            return str(meta["salt"])
        raise SmalltaleError(f"{out} holds another kind of artefact; choose a new or empty folder")
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
    """meta.json of a judgements folder."""
    declared = submission.with_name("submission.json")
    tokens: dict[str, dict[str, int]] = defaultdict(dict)
    for name, (read, written) in spending.tokens.items():
        tokens[name] = {"input": read, "output": written}
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
