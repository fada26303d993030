"""The demo's report: everything about one entry, read back from the files that the stages wrote.

Input: a finished demo folder, its stages and the results of counting and evaluation. Output: report.html, one page without
external assets. Note: stories are untrusted text; the template engine escapes everything except the plots.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from smalltale.counting.report import CountReport
from smalltale.experiments.plots import render_plots
from smalltale.experiments.runs import read_run
from smalltale.files import atomic_file, read_json
from smalltale.ranking.entries import read_criterion_intervals, read_entry
from smalltale.ranking.standings import rank
from smalltale.rules import Rules
from smalltale.submission import Completion, read_submission
from smalltale.training.evaluate import Evaluation
from smalltale.training.metrics_file import read_metrics

JUDGE_NOTE = (
    "These scores do not count for ranking: the embedded judge, SmolLM2-135M-Instruct, judges at chance level. They show "
    "that the path from story to score works; a real leaderboard needs a judge that passes `smalltale judge qualify`."
)
NEXT_COMMANDS = (
    (
        "Prepare the real stories, fetched from the Hugging Face Hub:",
        "smalltale corpus build small --out runs/corpus",
    ),
    ("See what this machine trains in an hour, by weight class:", "smalltale doctor"),
    (
        "Train a real entry (after `tokens train` and `tokens encode`), on a GPU if there is one:",
        "smalltale train small --tokens runs/tokens --tokenizer runs/tokenizer --minutes 60 --out runs/small",
    ),
)


@dataclass(frozen=True, kw_only=True)
class DemoStage:
    """A finished stage of the demo."""

    name: str
    summary: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class DemoReport:
    """Everything that the page and the printed summary show."""

    data_name: str
    """What the model was trained on."""
    stages: Sequence[DemoStage]
    tokens: int
    training_seconds: float
    plots: list[tuple[str, str]]
    """Title and SVG element."""
    evaluation: Evaluation
    counted_parameters: int
    weight_class: str
    class_limit: int
    count_rows: list[tuple[str, str, int, int, int]]
    """Weights, shape, unique parameters, uses, counted parameters."""
    hardware: str
    samples: list[Completion]
    judge_note: str
    scores: list[tuple[str, float, float, float]]
    """Criterion, mean, low, high."""
    standings: list[tuple[str, str, str, str, str]]
    """Rank, team, mean with interval, parameters, note."""
    next_commands: Sequence[tuple[str, str]] = NEXT_COMMANDS
    """Purpose, command."""


def read_report(
    out: Path,
    recipe: dict[str, Any],
    stages: Sequence[DemoStage],
    count: CountReport,
    evaluation: Evaluation,
    *,
    judged: bool,
) -> DemoReport:
    """Collect the report from the folder `out` of a finished demo of `recipe`."""
    rules, checkpoint = Rules(), out / "checkpoint"
    weight_class = rules.class_for(count.counted) or rules.weight_class(recipe["weight_class"])
    sources = recipe.get("corpus", {}).get("sources", ["fable"])
    last_row = read_metrics(checkpoint)[-1]
    first_completions: dict[str, Completion] = {}
    for row in read_submission(out / "submission.csv"):
        first_completions.setdefault(row.prompt, row)
    return DemoReport(
        data_name="fable, smalltale's own story grammar (not TinyStories)"
        if sources == ["fable"]
        else ", ".join(sources),
        stages=stages,
        tokens=last_row["tokens"],
        training_seconds=last_row["seconds"],
        plots=render_plots([read_run(checkpoint)]),
        evaluation=evaluation,
        counted_parameters=count.counted,
        weight_class=weight_class.name,
        class_limit=weight_class.max_parameters,
        count_rows=merge_layers(count),
        hardware=read_json(checkpoint / "meta.json")["hardware"]["name"],
        samples=list(first_completions.values()),
        judge_note=JUDGE_NOTE if judged else "No scores: the embedded judge was not run.",
        scores=read_criterion_intervals(out / "judgements") if judged else [],
        standings=format_standings(out / "judgements") if judged else [],
    )


def merge_layers(count: CountReport) -> list[tuple[str, str, int, int, int]]:
    """The rows of a count, with weights that differ only in the number of their layer in one row."""
    groups: dict[tuple[str, str, int], list[tuple[int, int]]] = {}
    for row in count.rows:
        name = re.sub(r"\.\d+\.", ".*.", row.name)
        groups.setdefault((name, row.shape, row.uses), []).append((row.unique, row.counted))
    return [
        (
            f"{name} ({len(layers)} layers)" if len(layers) > 1 else name,
            shape,
            sum(unique for unique, _ in layers),
            uses,
            sum(counted for _, counted in layers),
        )
        for (name, shape, uses), layers in groups.items()
    ]


def format_standings(judgements: Path) -> list[tuple[str, str, str, str, str]]:
    """The leaderboard of the one judged entry, as text."""
    rows = []
    for standing in rank([read_entry(judgements)]):
        entry = standing.entry
        score = "none" if entry.mean is None else f"{entry.mean:.2f}"
        if entry.low is not None and entry.high is not None:
            score += f" ({entry.low:.2f} to {entry.high:.2f})"
        parameters = "" if entry.counted_parameters is None else f"{entry.counted_parameters:,}"
        position = "" if standing.rank is None else str(standing.rank)
        rows.append((position, entry.name, score, parameters, standing.note))
    return rows


def write_report(report: DemoReport, path: Path) -> None:
    """Write the page atomically."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("smalltale.demo", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("report.html.jinja").render(report=report)
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
