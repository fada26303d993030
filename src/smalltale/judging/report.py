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

from smalltale.files import new_file, read_json
from smalltale.judging.folder import META, judgement_of, read_rows
from smalltale.judging.judgement import STATES
from smalltale.judging.panel import story_scores
from smalltale.judging.scores import Interval, clustered_interval, length_adjusted, pearson, prompts_needed

SHOWN = 3
"""Stories at either end."""
FAILED_SHOWN = 12
LEAST, MOST = 1.0, 10.0
"""Ends of the drawn scale, wider where scores lie outside."""
Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Line:
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
    stories = stories_of(rows)
    lines = [*panel_lines(rows), *judge_lines(rows)]
    low = min([LEAST, *(bound for line in lines for bound in bounds(line.interval))])
    high = max([MOST, *(bound for line in lines for bound in bounds(line.interval))])
    text = template().render(
        meta=meta,
        name=(meta.get("submission") or {}).get("team") or meta.get("name"),
        lines=[drawn(line, low, high) for line in lines],
        has_weighted=any(line.weighted is not None for line in lines),
        low=f"{low:.3g}",
        high=f"{high:.3g}",
        notes=notes_of(rows),
        states=STATES,
        counts=counts_of(rows),
        prompts=len({row["prompt"] for row in rows}),
        completions=len({(row["prompt"], row["sample"]) for row in rows}),
        ages=ages_of(rows),
        disagreement=disagreement_of(stories),
        flagged=list(by_story([row for row in rows if row["flags"]]).values()),
        best=stories[:SHOWN],
        worst=list(reversed(stories[SHOWN:][-SHOWN:])),
        failed=failed_of(rows),
    )
    with new_file(folder / "report.html") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return folder / "report.html"


def template() -> jinja2.Template:
    """The page's template, everything escaped."""
    source = (package_files("smalltale.judging") / "report.html.jinja").read_text(encoding="utf-8")
    found = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return found.from_string(source)


def panel_lines(rows: Rows) -> list[Line]:
    """The calibrated panel's score, which ranks; none for one judge or where a judge is not calibrated."""
    if any(row["calibrated"] is None for row in rows if row["overall"] is not None):
        return []
    interval = clustered_interval(grouped(panel_scores(rows).items()))
    return [Line(judge="panel, calibrated", criterion="overall", interval=interval)] if interval else []


def panel_scores(rows: Rows) -> dict[tuple[str, int], float]:
    """By story, the score of all its judges."""
    return {(each.prompt, each.sample): each.score for each in story_scores(map(judgement_of, rows))}


def judge_lines(rows: Rows) -> list[Line]:
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
        interval = clustered_interval(grouped(values.items()))
        beside = clustered_interval(grouped(weighted[judge, criterion].items()))
        if interval is not None:
            mean = beside.mean if beside else None
            found.append(Line(judge=judge, criterion=criterion, interval=interval, weighted=mean))
    return found


def grouped(values: Iterable[tuple[tuple[str, int], float]]) -> dict[str, list[float]]:
    """Story values by prompt."""
    found: dict[str, list[float]] = defaultdict(list)
    for (prompt, _), value in values:
        found[prompt].append(value)
    return found


def bounds(interval: Interval) -> list[float]:
    return [each for each in (interval.mean, interval.low, interval.high) if each is not None]


def drawn(line: Line, low: float, high: float) -> Line:
    """The line with its places on the scale."""
    places = [round(100 * (value - low) / (high - low), 2) for value in bounds(line.interval)]
    at, left, right = places[0], places[1 % len(places)], places[-1]
    return Line(
        judge=line.judge,
        criterion=line.criterion,
        interval=line.interval,
        weighted=line.weighted,
        at=at,
        left=left,
        width=round(right - left, 2),
    )


def notes_of(rows: Rows) -> list[str]:
    """What length explains, and how many prompts a finer answer needs."""
    notes = []
    for judge in dict.fromkeys(row["judge"] for row in rows):
        scored = [row for row in rows if row["judge"] == judge and row["overall"] is not None]
        values, lengths = [row["overall"] for row in scored], [len(row["completion"]) for row in scored]
        link = pearson(values, np.log(np.maximum(1, lengths)).tolist()) if scored else None
        if link is not None:
            spread, left = float(np.std(values)), float(np.std(length_adjusted(values, lengths)))
            notes.append(
                f"{judge}: the overall score correlates {link:+.2f} with log length; adjusted for length, its spread over "
                f"stories goes from {spread:.2f} to {left:.2f}."
            )
        needed = prompts_needed(
            grouped(((row["prompt"], row["sample"]), row["overall"]) for row in scored), 0.25
        )
        if needed is not None:
            notes.append(
                f"{judge}: {needed} prompts would tell entries apart that differ by 0.25 (unpaired, 80 % power)."
            )
    return notes


def counts_of(rows: Rows) -> list[dict[str, Any]]:
    """States, calls and tokens by judge."""
    found = []
    for judge in dict.fromkeys(row["judge"] for row in rows):
        own = [row for row in rows if row["judge"] == judge]
        states = Counter(row["state"] for row in own)
        found.append(
            {
                "judge": judge,
                "states": {state: states[state] for state in STATES},
                "calls": sum(row["calls"] for row in own),
                "input": sum(row["input_tokens"] for row in own),
                "output": sum(row["output_tokens"] for row in own),
            }
        )
    return found


def ages_of(rows: Rows) -> list[tuple[str, int]]:
    """How often each age group was guessed."""
    return sorted(Counter(row["age"] for row in rows if row["age"] is not None).items())


def stories_of(rows: Rows) -> list[dict[str, Any]]:
    """The stories that every judge scored, best first, with what each judge said."""
    said = by_story(rows)
    found = [
        {"prompt": place[0], "completion": said[place][0]["completion"], "overall": score, "said": said[place]}
        for place, score in panel_scores(rows).items()
    ]  # fmt: skip
    return sorted(found, key=lambda story: -story["overall"])


def by_story(rows: Rows) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """What was said of each story."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        found[row["prompt"], row["sample"]].append(row)
    return found


def disagreement_of(stories: Rows) -> list[dict[str, Any]]:
    """The stories on which several judges differ most, on the common scale where there is one."""
    found = []
    for story in stories:
        values = {
            row["judge"]: row["overall"] if row["calibrated"] is None else row["calibrated"]
            for row in story["said"]
        }
        if len(values) > 1 and np.ptp(list(values.values())) > 0:
            told = ", ".join(f"{judge} {value:.2f}" for judge, value in values.items())
            found.append({**story, "spread": float(np.std(list(values.values()))), "scores": told})
    return sorted(found, key=lambda row: -row["spread"])[:SHOWN]


def failed_of(rows: Rows) -> list[dict[str, Any]]:
    """Why judgements have no score, counted."""
    reasons = Counter((row["judge"], row["state"], row["reason"]) for row in rows if row["state"] != "ok")
    return [
        {"judge": judge, "state": state, "reason": reason, "count": count}
        for (judge, state, reason), count in reasons.most_common(FAILED_SHOWN)
    ]
