"""The judgements folder as one self-contained page.

In: a judgements folder. Out: report.html in it.
Beware: stories and judges' words are data; the template engine escapes everything.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from smalltale.files import atomic_file, read_json
from smalltale.judging.cost import Price
from smalltale.judging.folder import META, parse_row, read_rows
from smalltale.judging.judgement import STATES
from smalltale.judging.panel import panel_scores
from smalltale.judging.prompt_injection import split_judge_directed_text
from smalltale.ranking.statistics import (
    Interval,
    clustered_interval,
    length_adjusted,
    pearson,
    prompts_to_separate,
)

STORIES_SHOWN = 3
"""Stories at either end."""
FLAGGED_SHOWN = 12
FAILED_SHOWN = 12
SCALE_LOW, SCALE_HIGH = 1.0, 10.0
"""Ends of the drawn scale, wider where scores lie outside."""
Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """One line of the table of scores. Places are per cent of the drawn scale."""

    judge: str
    criterion: str
    interval: Interval
    weighted: float | None = None
    """The mean under the judge's own probabilities of its marks."""
    at: float = 0.0
    left: float = 0.0
    width: float = 0.0


def write_report(folder: Path) -> Path:
    """Write report.html. Raises FileProblem."""
    meta, rows = read_json(folder / META), read_rows(folder)
    stories, counts = rank_stories(rows), count_by_judge(rows, meta["judges"])
    lines = [*panel_rows(rows), *judge_rows(rows)]
    spreads = [story["spread"] for story in stories if story["spread"] is not None]
    flagged = list(group_by_story([row for row in rows if row["flags"]]).values())
    low = min([SCALE_LOW, *(bound for line in lines for bound in bounds(line.interval))])
    high = max([SCALE_HIGH, *(bound for line in lines for bound in bounds(line.interval))])
    text = load_template().render(
        meta=meta,
        name=(meta.get("submission") or {}).get("team") or meta.get("name"),
        lines=[place_on_scale(line, low, high) for line in lines],
        has_weighted=any(line.weighted is not None for line in lines),
        low=f"{low:.3g}",
        high=f"{high:.3g}",
        step=100 / (high - low),
        given=score_histograms(rows),
        notes=describe_length_and_power(rows),
        states=STATES,
        counts=counts,
        dollars=None
        if any(each["dollars"] is None for each in counts)
        else sum(each["dollars"] for each in counts),
        prompts=len({row["prompt"] for row in rows}),
        completions=len({(row["prompt"], row["sample"]) for row in rows}),
        ages=count_ages(rows),
        mean_spread=float(np.mean(spreads)) if spreads else None,
        disagreement=sorted((each for each in stories if each["spread"]), key=lambda each: -each["spread"])[
            :STORIES_SHOWN
        ],
        flagged=flagged[:FLAGGED_SHOWN],
        flagged_in_all=len(flagged),
        passages=split_judge_directed_text,
        best=stories[:STORIES_SHOWN],
        worst=list(reversed(stories[STORIES_SHOWN:][-STORIES_SHOWN:])),
        failed=count_failures(rows),
    )
    with atomic_file(folder / "report.html") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return folder / "report.html"


def load_template() -> jinja2.Template:
    """The page's template, everything escaped."""
    source = (package_files("smalltale.judging") / "report.html.jinja").read_text(encoding="utf-8")
    found = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return found.from_string(source)


def panel_rows(rows: Rows) -> list[ScoreRow]:
    """The calibrated panel's score, which ranks; none for one judge or where a judge is not calibrated."""
    if any(row["calibrated"] is None for row in rows if row["overall"] is not None):
        return []
    scores = {(each.prompt, each.sample): each.score for each in panel_scores(map(parse_row, rows))}
    interval = clustered_interval(group_by_prompt(scores.items()))
    return [ScoreRow(judge="panel, calibrated", criterion="overall", interval=interval)] if interval else []


def judge_rows(rows: Rows) -> list[ScoreRow]:
    """Each judge's overall score and criteria with intervals."""
    marks: dict[tuple[str, str], dict[tuple[str, int], float]] = defaultdict(dict)
    weighted: dict[tuple[str, str], dict[tuple[str, int], float]] = defaultdict(dict)
    for row in rows:
        if row["overall"] is not None:
            story = row["prompt"], row["sample"]
            for criterion, value in {"overall": row["overall"], **row["scores"]}.items():
                if value is not None:
                    marks[row["judge"], criterion][story] = value
            for criterion, value in row["weighted"].items():
                if value is not None:
                    weighted[row["judge"], criterion][story] = value
    found = []
    for (judge, criterion), values in marks.items():
        interval = clustered_interval(group_by_prompt(values.items()))
        beside = clustered_interval(group_by_prompt(weighted[judge, criterion].items()))
        if interval is not None:
            mean = beside.mean if beside else None
            found.append(ScoreRow(judge=judge, criterion=criterion, interval=interval, weighted=mean))
    return found


def group_by_prompt(values: Iterable[tuple[tuple[str, int], float]]) -> dict[str, list[float]]:
    """Story values by prompt."""
    found: dict[str, list[float]] = defaultdict(list)
    for (prompt, _), value in values:
        found[prompt].append(value)
    return found


def bounds(interval: Interval) -> list[float]:
    return [each for each in (interval.mean, interval.low, interval.high) if each is not None]


def place_on_scale(line: ScoreRow, low: float, high: float) -> ScoreRow:
    """The line with its places on the scale."""
    places = [round(100 * (value - low) / (high - low), 2) for value in bounds(line.interval)]
    at, left, right = places[0], places[1 % len(places)], places[-1]
    return ScoreRow(
        judge=line.judge,
        criterion=line.criterion,
        interval=line.interval,
        weighted=line.weighted,
        at=at,
        left=left,
        width=round(right - left, 2),
    )


def score_histograms(rows: Rows) -> list[dict[str, Any]]:
    """By judge, how often each overall score was given: whole marks, with each bar's height in per cent."""
    found = []
    for judge, own in group_by_judge(rows):
        marks = Counter(round(row["overall"]) for row in own if row["overall"] is not None)
        if marks:
            ends, most = range(min(1, *marks), max(10, *marks) + 1), max(marks.values())
            bars = [(mark, marks[mark], round(100 * marks[mark] / most)) for mark in ends]
            found.append({"judge": judge, "bars": bars})
    return found


def group_by_judge(rows: Rows) -> list[tuple[str, Rows]]:
    """The rows of each judge."""
    return [
        (judge, [row for row in rows if row["judge"] == judge])
        for judge in dict.fromkeys(row["judge"] for row in rows)
    ]


def describe_length_and_power(rows: Rows) -> list[str]:
    """What length explains, and how many prompts a finer answer needs."""
    notes = []
    for judge, own in group_by_judge(rows):
        scored = [row for row in own if row["overall"] is not None]
        values, lengths = [row["overall"] for row in scored], [len(row["completion"]) for row in scored]
        link = pearson(values, np.log(np.maximum(1, lengths)).tolist()) if scored else None
        if link is not None:
            spread, left = float(np.std(values)), float(np.std(length_adjusted(values, lengths)))
            notes.append(
                f"{judge}: the overall score correlates {link:+.2f} with log length; adjusted for length, its spread over "
                f"stories goes from {spread:.2f} to {left:.2f}."
            )
        needed = prompts_to_separate(
            group_by_prompt(((row["prompt"], row["sample"]), row["overall"]) for row in scored), 0.25
        )
        if needed is not None:
            notes.append(
                f"{judge}: {needed} prompts would tell entries apart that differ by 0.25 (unpaired, 80 % power)."
            )
    return notes


def count_by_judge(rows: Rows, judges: Rows) -> list[dict[str, Any]]:
    """States, calls, tokens and dollars by judge, earlier runs included; two equal texts cost one call."""
    prices = {each["name"]: Price(**each["price"]) for each in judges if each.get("price")}
    found = []
    for judge, own in group_by_judge(rows):
        states, paid = Counter(row["state"] for row in own), {row["key"]: row for row in own}.values()
        read, written = (sum(row[name] for row in paid) for name in ("input_tokens", "output_tokens"))
        found.append(
            {
                "judge": judge,
                "states": {state: states[state] for state in STATES},
                "calls": sum(row["calls"] for row in paid),
                "input": read,
                "output": written,
                "dollars": prices[judge].dollars(read, written) if judge in prices else None,
            }
        )
    return found


def count_ages(rows: Rows) -> list[tuple[str, int]]:
    """How often each age group was guessed."""
    return sorted(Counter(row["age"] for row in rows if row["age"] is not None).items())


def rank_stories(rows: Rows) -> list[dict[str, Any]]:
    """The stories that every judge scored, best first, with what each judge said and how far they are apart."""
    said = group_by_story(rows)
    found = [
        {
            "prompt": each.prompt,
            "completion": said[each.prompt, each.sample][0]["completion"],
            "overall": each.score,
            "spread": each.disagreement,
            "said": said[each.prompt, each.sample],
        }
        for each in panel_scores(map(parse_row, rows))
    ]
    return sorted(found, key=lambda story: -story["overall"])


def group_by_story(rows: Rows) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """What was said of each story."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        found[row["prompt"], row["sample"]].append(row)
    return found


def count_failures(rows: Rows) -> list[dict[str, Any]]:
    """Why judgements have no score, counted."""
    reasons = Counter((row["judge"], row["state"], row["reason"]) for row in rows if row["state"] != "ok")
    return [
        {"judge": judge, "state": state, "reason": reason, "count": count}
        for (judge, state, reason), count in reasons.most_common(FAILED_SHOWN)
    ]
