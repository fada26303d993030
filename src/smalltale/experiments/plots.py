"""Plots loss and bits per byte of runs by tokens, by time and by FLOPs.

Input: runs. Output: an image file with all plots, or each plot as an SVG element for a page.
Note: the training loss is noisy, so its line is a rolling median over faint points of single steps. FLOPs are computed by
the project's definition (docs/architecture.md), not measured.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from smalltale.errors import FileProblem
from smalltale.experiments.compare import format_decimals
from smalltale.experiments.runs import TrainingRun
from smalltale.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#4d4d4d")
"""Distinguishable with colour blindness (Okabe and Ito 2008), without that palette's yellow, too faint for a line."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
"""Line patterns, changed after each round of colours."""
MAX_SMOOTH_POINTS = 400
"""Points of a smoothed line."""
MAX_RAW_POINTS = 1500
"""Faint points of single steps in a plot, over all runs."""
LOG_SCALE_RATIO = 6.0
"""The x axis is logarithmic if the longest run is more than this many times the shortest."""
IMAGE_SUFFIXES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class YAxis:
    """A metric to plot."""

    key: str
    name: str
    title: str
    """Label of the axis: metric and unit."""


@dataclass(frozen=True)
class XAxis:
    """A measure of training progress to plot by."""

    key: str
    title: str
    units: tuple[tuple[float, float, str], ...]
    """(minimum length, unit size, unit name), largest first; the first whose minimum the longest run reaches is used."""


Y_AXES = (
    YAxis("bits_per_byte", "Bits per byte", "bits per byte, held-out stories"),
    YAxis("loss", "Training loss", "training loss, nats per token"),
)
TOKEN_UNITS = ((1e9, 1e9, "billion tokens"), (1e6, 1e6, "million tokens"), (1e3, 1e3, "thousand tokens"))
TIME_UNITS = (
    (5400, 3600, "hours of training"),
    (90, 60, "minutes of training"),
    (0, 1, "seconds of training"),
)
FLOP_UNITS = (
    (1e18, 1e18, "exaFLOPs"),
    (1e15, 1e15, "petaFLOPs"),
    (1e12, 1e12, "teraFLOPs"),
    (0, 1e9, "gigaFLOPs"),
)
X_AXES = (
    XAxis("tokens", "tokens", TOKEN_UNITS),
    XAxis("seconds", "time", TIME_UNITS),
    XAxis("flops", "FLOPs", FLOP_UNITS),
)


@dataclass(frozen=True, kw_only=True)
class LineStyle:
    """Colour and pattern of a run in every plot."""

    colour: str
    dash: Any


def make_line_styles(count: int) -> list[LineStyle]:
    """One style per run: all colours with the first pattern, then again with the next."""
    pairs = islice(cycle((colour, dash) for dash in DASHES for colour in COLOURS), count)
    return [LineStyle(colour=colour, dash=dash) for colour, dash in pairs]


def get_curve(run: TrainingRun, x_axis: XAxis, y_axis: YAxis) -> tuple[np.ndarray, np.ndarray]:
    """x and y of a run's curve: two float arrays (n,), n = 0 if the run lacks a measure."""
    key, factor = ("tokens", run.flops_per_token or 0.0) if x_axis.key == "flops" else (x_axis.key, 1.0)
    rows = [row for row in run.rows if factor and key in row and y_axis.key in row]
    x, y = (np.array([row[column] for row in rows], dtype=float) for column in (key, y_axis.key))
    return factor * x, y


def smooth_curve(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rolling median over about 4 % of the steps, at up to MAX_SMOOTH_POINTS points.

    The window is narrower at the steep start. At the end it keeps its backward half, so that one noisy step does not bend
    the line.
    """
    reach = max(4, len(y) // 50)
    centres = np.unique(np.linspace(0, len(y) - 1, min(MAX_SMOOTH_POINTS, len(y))).astype(int))
    medians = []
    for centre in centres:
        radius = min(reach, centre)
        medians.append(np.median(y[centre - radius : centre + radius + 1]))
    return x[centres], np.array(medians)


def available_x_axes(runs: Sequence[TrainingRun]) -> list[XAxis]:
    """The x axes by which at least one run can be plotted: FLOPs need a record of flops_per_token."""
    return [x for x in X_AXES if any(len(get_curve(run, x, y)[0]) for run in runs for y in Y_AXES)]


def list_omissions(runs: Sequence[TrainingRun]) -> list[str]:
    """Descriptions of what the plots cannot show."""
    omissions = []
    drawable = [run for run in runs if run.rows]
    if without_flops := [run.name for run in drawable if not run.flops_per_token]:
        names = "all runs" if len(without_flops) == len(drawable) else ", ".join(without_flops)
        omissions.append(f"by FLOPs: {names} left out, no flops_per_token in meta.json")
    if not_evaluated := [run.name for run in drawable if not run.bits_per_byte]:
        omissions.append(f"bits per byte: not measured yet in {', '.join(not_evaluated)}")
    if len({run.settings.get("held_out") for run in runs if run.bits_per_byte}) > 1:
        omissions.append("bits per byte: the runs have different held-out stories")
    if empty := [run.name for run in runs if not run.rows]:
        omissions.append(f"no curve: no readable step in {', '.join(empty)}")
    return omissions


def draw_plot(axes: Axes, runs: Sequence[TrainingRun], x_axis: XAxis, y_axis: YAxis) -> None:
    """Draw one plot with all runs."""
    curves = [get_curve(run, x_axis, y_axis) for run in runs]
    lengths = [x[-1] for x, _ in curves if len(x)]
    if not lengths:
        centred: dict[str, Any] = {"ha": "center", "va": "center", "transform": axes.transAxes}
        axes.text(0.5, 0.5, "not measured yet", color="grey", **centred)
        axes.set(xticks=[], yticks=[], ylabel=y_axis.title, xlabel=x_axis.title)
        return
    longest = max(lengths)
    units = [(size, name) for minimum, size, name in x_axis.units if longest >= minimum]
    size, unit = units[0] if units else (1.0, x_axis.title)
    tops, styles = [], make_line_styles(len(runs))
    for (x, y), style, order in zip(curves, styles, range(len(runs), 0, -1), strict=True):
        if not len(x):
            continue
        line: dict[str, Any] = {"color": style.colour, "zorder": 2 + order}
        if y_axis.key == "loss":
            raw = slice(None, None, max(1, len(x) * len(runs) // MAX_RAW_POINTS))
            axes.plot(x[raw] / size, y[raw], ".", markersize=3.5, alpha=0.35, markeredgewidth=0, **line)
            x, y = smooth_curve(x, y)
            axes.plot(x / size, y, linestyle=style.dash, linewidth=1.6, **line)
            tops.append(np.max(y[x >= 0.04 * x[-1]]))
        else:
            axes.plot(x / size, y, linestyle=style.dash, linewidth=1.4, marker="o", markersize=4, **line)
    if tops:
        bottom, top = min(np.min(y) for _, y in curves if len(y)), max(tops)
        axes.set_ylim(bottom - 0.04 * (top - bottom), top + 0.06 * (top - bottom) + 1e-9)
    if longest > LOG_SCALE_RATIO * min(lengths) > 0:
        use_log_scale(axes, min(x[0] for x, _ in curves if len(x)) / size, longest / size)
    else:
        axes.set_xlim(left=0)
        axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel(unit)
    axes.set_ylabel(y_axis.title)
    axes.grid(alpha=0.25, linewidth=0.6)


def use_log_scale(axes: Axes, first: float, last: float) -> None:
    """A logarithmic x axis with plain numbers as labels, from the first points of the runs on."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axes.set_xscale("log")
    left = max(first, last / 3000)
    axes.set_xlim(left * 0.9, last * 1.1)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if last / left < 200 else (1.0,)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


@contextlib.contextmanager
def plot_style() -> Iterator[None]:
    """Matplotlib settings of all plots; suppresses warnings about scripts that the font does not have."""
    import matplotlib

    settings = matplotlib.rc_context(
        {
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "svg.hashsalt": "smalltale",
            "svg.fonttype": "none",
        }
    )
    with settings, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def write_figure(runs: Sequence[TrainingRun], path: Path) -> None:
    """Write one image with every plot. Raises FileProblem for another suffix, or if no run has a step."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise FileProblem(f"{path} has an unsupported suffix; choose .png, .svg or .pdf")
    x_axes = available_x_axes(runs)
    if not x_axes:
        raise FileProblem("no run has a readable step yet; there is nothing to draw")
    drawn = [(run, style) for run, style in zip(runs, make_line_styles(len(runs)), strict=True) if run.rows]
    with plot_style():
        columns = len(x_axes)
        figure = Figure(figsize=(4.2 * columns, 6.6 + 0.2 * len(drawn)), layout="constrained", dpi=130)
        for row, y_axis in zip(figure.subplots(2, columns, squeeze=False), Y_AXES, strict=True):
            for axes, x_axis in zip(row, x_axes, strict=True):
                draw_plot(axes, runs, x_axis, y_axis)
        handles = [Line2D([], [], color=line.colour, linestyle=line.dash, linewidth=2) for _, line in drawn]
        legend = figure.legend(
            handles, [str(number) for number in range(len(drawn))], loc="outside lower center", frameon=False
        )
        # Names are set afterwards: in a label, a leading underscore or a dollar sign has a special meaning.
        for label, (run, _) in zip(legend.get_texts(), drawn, strict=True):
            label.set_parse_math(False)
            best = format_decimals(run.best_bits_per_byte, 4)
            label.set_text(f"{run.name}   {run.state}, best {best} bits per byte")
        with atomic_file(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:].lower())


def render_plots(runs: Sequence[TrainingRun]) -> list[tuple[str, str]]:
    """Each plot as a title and an SVG element, for a page whose table shows the runs' colours."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    plots = []
    with plot_style():
        for y_axis in Y_AXES:
            for x_axis in available_x_axes(runs):
                figure = Figure(figsize=(4.8, 3.1), layout="constrained")
                draw_plot(figure.add_subplot(), runs, x_axis, y_axis)
                svg = io.StringIO()
                FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
                element = svg.getvalue()
                plots.append((f"{y_axis.name} by {x_axis.title}", element[element.index("<svg") :]))
    return plots
