"""The judgements folder as one self-contained page.

In: a judgements folder. Out: report.html in it.
Beware: stories and judges' words are data; the template engine escapes everything.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from smalltale.files import new_file, read_json
from smalltale.judging.folder import META, judgement_of, read_rows
from smalltale.judging.judgement import STATES
from smalltale.judging.panel import Calibration, panel_scores
from smalltale.judging.scores import Interval, clustered_interval, length_adjusted, pearson, prompts_needed

SHOWN = 3
"""Stories at either end."""
FAILED_SHOWN = 12
Rows = Sequence[dict[str, Any]]


def write_report(folder: Path, calibrations: Mapping[str, Calibration] | None = None) -> Path:
    """Write report.html; with `calibrations` of every judge, the panel's score too. Raises FileProblem."""
    meta, rows = read_json(folder / META), read_rows(folder)
    stories = stories_of(rows)
    scores = score_rows(rows)
    top = max([10.0, *(row["interval"].mean for row in scores)])
    text = template().render(
        meta=meta,
        name=(meta.get("submission") or {}).get("team") or meta.get("name"),
        scores=[drawn(row, 1.0, top) for row in scores],
        low=1,
        high=f"{top:g}",
        notes=[*panel_notes(rows, calibrations or {}), *notes_of(rows)],
        states=STATES,
        counts=counts_of(rows),
        disagreement=disagreement_of(stories),
        flagged=[row for row in rows if row["flags"]],
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
    return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(source)


def score_rows(rows: Rows) -> list[dict[str, Any]]:
    """Each judge's overall score and criteria with intervals."""
    grouped: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["overall"] is not None:
            for criterion, value in {"overall": row["overall"], **row["scores"]}.items():
                if value is not None:
                    grouped[row["judge"], criterion][row["prompt"]].append(value)
    found = []
    for (judge, criterion), by_prompt in grouped.items():
        interval = clustered_interval(by_prompt)
        if interval is not None:
            found.append({"judge": judge, "criterion": criterion, "interval": interval})
    return found


def drawn(row: dict[str, Any], low: float, high: float) -> dict[str, Any]:
    """A score with its places on the scale, in per cent."""
    interval: Interval = row["interval"]

    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    left = width = None
    if interval.low is not None and interval.high is not None:
        left, width = place(interval.low), round(place(interval.high) - place(interval.low), 2)
    return {**row, "at": place(interval.mean), "left": left, "width": width}


def notes_of(rows: Rows) -> list[str]:
    """What length explains, and how many prompts a finer answer needs."""
    notes = []
    for judge in dict.fromkeys(row["judge"] for row in rows):
        scored = [row for row in rows if row["judge"] == judge and row["overall"] is not None]
        values, lengths = [row["overall"] for row in scored], [len(row["completion"]) for row in scored]
        by_prompt: dict[str, list[float]] = defaultdict(list)
        for row in scored:
            by_prompt[row["prompt"]].append(row["overall"])
        link = pearson(values, np.log(np.maximum(1, lengths)).tolist()) if scored else None
        if link is not None:
            adjusted = length_adjusted(values, lengths)
            best, worst = float(np.max(adjusted)), float(np.min(adjusted))
            notes.append(
                f"{judge}: correlation of the overall score with log length {link:+.2f}; without what length explains, stories lie between {worst:.2f} and {best:.2f}."
            )
        needed = prompts_needed(by_prompt, 0.25)
        if needed is not None:
            notes.append(
                f"{judge}: {needed} prompts would tell entries apart that differ by 0.25 (unpaired, 80 % power)."
            )
    return notes


def panel_notes(rows: Rows, calibrations: Mapping[str, Calibration]) -> list[str]:
    """The panel's calibrated score."""
    found = panel_scores([judgement_of(row) for row in rows], calibrations)
    by_prompt: dict[str, list[float]] = defaultdict(list)
    for each in found:
        by_prompt[each.prompt].append(each.score)
    interval = clustered_interval(by_prompt)
    if interval is None:
        return []
    spreads = [each.disagreement for each in found if each.disagreement is not None]
    told = f" The judges differ by {np.mean(spreads):.2f} on a story." if spreads else ""
    return [f"Panel, each judge calibrated on the gold set (there mean 5.5, spread 2): {interval}.{told}"]


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


def stories_of(rows: Rows) -> list[dict[str, Any]]:
    """The scored stories, best first, with what each judge said."""
    by_story: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["overall"] is not None:
            by_story[row["prompt"], row["sample"]].append(row)
    found = [
        {
            "prompt": prompt,
            "completion": said[0]["completion"],
            "overall": float(np.mean([row["overall"] for row in said])),
            "said": said,
        }
        for (prompt, _), said in by_story.items()
    ]
    return sorted(found, key=lambda story: -story["overall"])


def disagreement_of(stories: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The stories on which several judges differ most."""
    found = []
    for story in stories:
        values = [row["overall"] for row in story["said"]]
        if len(values) > 1 and np.ptp(values) > 0:
            told = ", ".join(f"{row['judge']} {row['overall']:.2f}" for row in story["said"])
            found.append(
                {"completion": story["completion"][:160], "spread": float(np.std(values)), "scores": told}
            )
    return sorted(found, key=lambda row: -row["spread"])[:SHOWN]


def failed_of(rows: Rows) -> list[dict[str, Any]]:
    """Why judgements have no score, counted."""
    reasons = Counter((row["judge"], row["state"], row["reason"]) for row in rows if row["state"] != "ok")
    return [
        {"judge": judge, "state": state, "reason": reason, "count": count}
        for (judge, state, reason), count in reasons.most_common(FAILED_SHOWN)
    ]
