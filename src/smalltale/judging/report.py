"""Write the report page of a judgements folder: one self-contained HTML file.

Input: a judgements folder. Output: report.html in it.
Note: stories and judges' words are untrusted; the template escapes everything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from smalltale.files import atomic_file
from smalltale.judging.cost import Price
from smalltale.judging.folder import to_judgement
from smalltale.judging.judgement import STATES
from smalltale.judging.panel import panel_scores
from smalltale.judging.prompt_injection import split_judge_directed_text
from smalltale.ranking.entries import read_meta, read_rows
from smalltale.ranking.statistics import (
    Interval,
    clustered_interval,
    group_by_key,
    length_adjusted,
    pearson,
    prompts_to_separate,
)

STORIES_SHOWN = 3
"""Number of best, worst and most disputed stories shown."""
FLAGGED_SHOWN = 12
FAILED_SHOWN = 12
SCALE_LOW, SCALE_HIGH = 1.0, 10.0
"""Ends of the scale of the bars; wider if scores are outside."""
Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """One row of the table of scores."""

    judge: str
    criterion: str
    interval: Interval
    weighted: float | None = None
    """The expected score under the judge's token probabilities."""


def write_report(folder: Path) -> Path:
    """Write report.html. Raises FileProblem."""
    meta, rows = read_meta(folder), read_rows(folder)
    stories, counts = rank_stories(rows), count_by_judge(rows, meta["judges"])
    score_rows = [*panel_rows(rows), *judge_rows(rows)]
    costs = [count["dollars"] for count in counts]
    spreads = [story["spread"] for story in stories if story["spread"] is not None]
    disputed = sorted((story for story in stories if story["spread"]), key=lambda story: -story["spread"])
    flagged = list(group_by_story(row for row in rows if row["flags"]).values())
    ends = [end for row in score_rows for end in row.interval.bounds()]
    low, high = min([SCALE_LOW, *ends]), max([SCALE_HIGH, *ends])
    text = load_template().render(
        meta=meta,
        name=(meta.get("submission") or {}).get("team") or meta.get("name"),
        score_rows=score_rows,
        has_weighted=any(row.weighted is not None for row in score_rows),
        low=f"{low:.3g}",
        high=f"{high:.3g}",
        percent=lambda score: round(100 * (score - low) / (high - low), 2),
        step=100 / (high - low),
        histograms=score_histograms(rows),
        notes=describe_length_and_power(rows),
        states=STATES,
        counts=counts,
        dollars=None if any(cost is None for cost in costs) else sum(costs),
        prompts=len({row["prompt"] for row in rows}),
        completions=len({(row["prompt"], row["sample"]) for row in rows}),
        ages=count_ages(rows),
        mean_spread=float(np.mean(spreads)) if spreads else None,
        disputed=disputed[:STORIES_SHOWN],
        flagged=flagged[:FLAGGED_SHOWN],
        flagged_count=len(flagged),
        passages=split_judge_directed_text,
        best=stories[:STORIES_SHOWN],
        worst=list(reversed(stories[STORIES_SHOWN:][-STORIES_SHOWN:])),
        failed=count_failures(rows),
    )
    with atomic_file(folder / "report.html") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return folder / "report.html"


def load_template() -> jinja2.Template:
    """The page's template, which escapes everything."""
    source = (package_files("smalltale.judging") / "report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source)


def panel_rows(rows: Rows) -> list[ScoreRow]:
    """The calibrated panel's score, which ranks; none for a single judge or a panel with an uncalibrated judge."""
    if any(row["calibrated"] is None for row in rows if row["overall"] is not None):
        return []
    stories = panel_scores(map(to_judgement, rows))
    interval = clustered_interval(group_by_key((story.prompt, story.score) for story in stories))
    return [ScoreRow(judge="panel, calibrated", criterion="overall", interval=interval)] if interval else []


def judge_rows(rows: Rows) -> list[ScoreRow]:
    """Each judge's overall score and criteria with intervals."""
    scored = [row for row in rows if row["overall"] is not None]
    scores = group_scores((row, {"overall": row["overall"], **row["scores"]}) for row in scored)
    weighted = group_scores((row, row["weighted"]) for row in scored)
    score_rows = []
    for (judge, criterion), scores_by_prompt in scores.items():
        interval = clustered_interval(scores_by_prompt)
        weighted_interval = clustered_interval(weighted.get((judge, criterion), {}))
        if interval is not None:
            mean = weighted_interval.mean if weighted_interval else None
            score_rows.append(ScoreRow(judge=judge, criterion=criterion, interval=interval, weighted=mean))
    return score_rows


def group_scores(
    scores_of_rows: Iterable[tuple[dict[str, Any], Mapping[str, float | None]]],
) -> dict[tuple[str, str], dict[str, list[float]]]:
    """Scores by (judge, criterion), and by prompt within it."""
    pairs_by_criterion = group_by_key(
        ((row["judge"], criterion), (row["prompt"], score))
        for row, scores in scores_of_rows
        for criterion, score in scores.items()
        if score is not None
    )
    return {key: group_by_key(pairs) for key, pairs in pairs_by_criterion.items()}


def score_histograms(rows: Rows) -> list[dict[str, Any]]:
    """By judge, a histogram of rounded overall scores: (score, count, height in per cent)."""
    histograms = []
    for judge, judge_rows in group_by_key((row["judge"], row) for row in rows).items():
        counts = Counter(round(row["overall"]) for row in judge_rows if row["overall"] is not None)
        if counts:
            scores, highest = range(min(1, *counts), max(10, *counts) + 1), max(counts.values())
            bars = [(score, counts[score], round(100 * counts[score] / highest)) for score in scores]
            histograms.append({"judge": judge, "bars": bars})
    return histograms


def describe_length_and_power(rows: Rows) -> list[str]:
    """Notes by judge: what length explains, and how many prompts separate entries."""
    notes = []
    for judge, judge_rows in group_by_key((row["judge"], row) for row in rows).items():
        scored = [row for row in judge_rows if row["overall"] is not None]
        scores, lengths = [row["overall"] for row in scored], [len(row["completion"]) for row in scored]
        correlation = pearson(scores, np.log(np.maximum(1, lengths)).tolist()) if scored else None
        if correlation is not None:
            sd, adjusted_sd = float(np.std(scores)), float(np.std(length_adjusted(scores, lengths)))
            notes.append(
                f"{judge}: the overall score correlates {correlation:+.2f} with log length; adjusting for length changes its standard "
                f"deviation over stories from {sd:.2f} to {adjusted_sd:.2f}."
            )
        needed = prompts_to_separate(group_by_key((row["prompt"], row["overall"]) for row in scored), 0.25)
        if needed is not None:
            notes.append(
                f"{judge}: {needed} prompts would separate entries that differ by 0.25 (unpaired, 80 % power)."
            )
    return notes


def count_by_judge(rows: Rows, judges: Rows) -> list[dict[str, Any]]:
    """States, calls, tokens and dollars by judge, including earlier runs; equal completions are paid for once."""
    prices = {judge["name"]: Price(**judge["price"]) for judge in judges if judge.get("price")}
    counts = []
    for judge, judge_rows in group_by_key((row["judge"], row) for row in rows).items():
        states = Counter(row["state"] for row in judge_rows)
        paid = {row["key"]: row for row in judge_rows}.values()
        tokens = [sum(row[name] for row in paid) for name in ("input_tokens", "output_tokens")]
        counts.append(
            {
                "judge": judge,
                "states": {state: states[state] for state in STATES},
                "calls": sum(row["calls"] for row in paid),
                "input": tokens[0],
                "output": tokens[1],
                "dollars": prices[judge].dollars(*tokens) if judge in prices else None,
            }
        )
    return counts


def count_ages(rows: Rows) -> list[tuple[str, int]]:
    """How often the judges estimated each age group."""
    return sorted(Counter(row["age"] for row in rows if row["age"] is not None).items())


def rank_stories(rows: Rows) -> list[dict[str, Any]]:
    """The stories that all judges scored, best first, with their judgements and the judges' disagreement."""
    rows_by_story = group_by_story(rows)
    stories = [
        {
            "prompt": score.prompt,
            "completion": rows_by_story[score.prompt, score.sample][0]["completion"],
            "overall": score.score,
            "spread": score.disagreement,
            "judgements": rows_by_story[score.prompt, score.sample],
        }
        for score in panel_scores(map(to_judgement, rows))
    ]
    return sorted(stories, key=lambda story: -story["overall"])


def group_by_story(rows: Iterable[dict[str, Any]]) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """The rows of each story."""
    return group_by_key(((row["prompt"], row["sample"]), row) for row in rows)


def count_failures(rows: Rows) -> list[dict[str, Any]]:
    """The most frequent reasons of judgements without a score."""
    reasons = Counter((row["judge"], row["state"], row["reason"]) for row in rows if row["state"] != "ok")
    return [
        {"judge": judge, "state": state, "reason": reason, "count": count}
        for (judge, state, reason), count in reasons.most_common(FAILED_SHOWN)
    ]
