"""The demo's page: what a whole entry looks like, read back from the files the verbs wrote.

In: a finished demo folder and what its stages answered. Out: report.html, one page without outside assets.
Beware: stories and judges' words are data; everything is escaped by the template engine.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from smalltale.files import atomic_file


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One completion with its prompt."""

    prompt: str
    completion: str


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the page and the closing table show."""

    title: str
    text_name: str
    """What the model was trained on, by its own name."""
    stages: list[tuple[str, str, float]]
    """Stage, result in words, seconds."""
    metrics: list[dict[str, Any]]
    bits_per_byte: float
    evaluated_stories: int
    counted_parameters: int
    weight_class: str
    class_budget: int
    count_rows: list[tuple[str, str, int, int, int]]
    """Module, shape, unique weights, uses, counted."""
    hardware: str
    samples: list[Sample]
    scores: list[tuple[str, float, float, float]] = field(default_factory=list)
    """Criterion, mean, low, high."""
    judge_note: str = ""
    standings: list[tuple[str, str, str, str, str]] = field(default_factory=list)
    """Rank, team, mean with interval, parameters, note."""
    next_commands: list[tuple[str, str]] = field(default_factory=list)
    """What it does, the command."""


def write_report(result: DemoResult, path: Path) -> None:
    """Write the page, whole or not at all."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("smalltale.demo", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("report.html.jinja").render(
        result=result, curve=loss_curve(result.metrics)
    )
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def loss_curve(metrics: list[dict[str, Any]]) -> str:
    """The loss by training minutes, and bits per byte where it was measured, as an SVG element."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    axes = figure.add_subplot()
    minutes = [each["seconds"] / 60 for each in metrics]
    losses = [each["loss"] for each in metrics]
    axes.plot(minutes, losses, color="#9ecae1", linewidth=0.8, label="each step")
    weight = 1 - 1 / max(4.0, len(losses) / 50)
    axes.plot(minutes, smoothed(losses, weight), color="#08519c", linewidth=1.8, label="smoothed")
    axes.set_xlabel("minutes of training")
    axes.set_ylabel("loss, nats per token")
    axes.grid(alpha=0.25)
    looks = [(each["seconds"] / 60, each["bits_per_byte"]) for each in metrics if "bits_per_byte" in each]
    if looks:
        right = axes.twinx()
        right.plot(*zip(*looks, strict=True), "o-", color="#d95f0e", markersize=5, linewidth=1)
        right.margins(y=0.18)
        right.set_ylabel("bits per byte, held-out stories", color="#d95f0e")
        for when, bits in looks:
            right.annotate(
                f"{bits:.3f}",
                (when, bits),
                textcoords="offset points",
                xytext=(-4, 8),
                ha="right",
                color="#a63603",
                fontsize=8,
            )
    axes.legend(loc="upper right", frameon=False)
    drawn = io.StringIO()
    FigureCanvasSVG(figure).print_svg(drawn, metadata={"Date": None})  # type: ignore[no-untyped-call]
    text = drawn.getvalue()
    return text[text.index("<svg") :]


def smoothed(values: list[float], weight: float) -> list[float]:
    """An exponential moving average that starts without bias."""
    out: list[float] = []
    mean = norm = 0.0
    for value in values:
        mean = weight * mean + (1 - weight) * value
        norm = weight * norm + (1 - weight)
        out.append(mean / norm)
    return out
