"""Curves of runs: loss and bits per byte, by tokens, by time and by FLOPs.

In: runs. Out: a picture with every plot, or each plot as an SVG element for a page.
Beware: the loss is that of the training batch, so its line is a rolling median over the faint single steps; FLOPs are
counted by the project's definition (docs/architecture.md), not measured.
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
from smalltale.experiments.compare import decimals
from smalltale.experiments.runs import Run
from smalltale.files import new_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#4d4d4d")
"""Told apart by colour-blind readers (Okabe and Ito 2008); its yellow is too faint for a line."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
"""The lines of the runs past the last colour."""
CENTRES = 400
"""Points of a smoothed line at most."""
RAW_POINTS = 1500
"""Faint single steps in a plot at most, all runs together."""
FAR_APART = 6.0
"""Where the longest run is so many times the shortest, what goes across is on a logarithmic scale."""
ENDINGS = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Measure:
    """What goes up."""

    key: str
    name: str
    title: str
    """Its axis: what is measured, and the unit."""


@dataclass(frozen=True)
class Axis:
    """What goes across."""

    key: str
    title: str
    units: tuple[tuple[float, float, str], ...]
    """From which length on, its size, its name; the first that the longest run reaches is used."""


MEASURES = (
    Measure("bits_per_byte", "Bits per byte", "bits per byte, held-out stories"),
    Measure("loss", "Training loss", "training loss, nats per token"),
)
ACROSS = (
    Axis(
        "tokens",
        "tokens",
        ((1e9, 1e9, "billion tokens"), (1e6, 1e6, "million tokens"), (1e3, 1e3, "thousand tokens")),
    ),
    Axis(
        "seconds",
        "time",
        ((5400, 3600, "hours of training"), (90, 60, "minutes of training"), (0, 1, "seconds of training")),
    ),
    Axis(
        "flops",
        "FLOPs",
        (
            (1e18, 1e18, "exaFLOPs"),
            (1e15, 1e15, "petaFLOPs"),
            (1e12, 1e12, "teraFLOPs"),
            (0, 1e9, "gigaFLOPs"),
        ),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a run is drawn in every plot."""

    colour: str
    dash: Any


def styles(count: int) -> list[Style]:
    """One a run: colours first, then the colours again in other dashes."""
    return [
        Style(colour=colour, dash=DASHES[number // len(COLOURS) % len(DASHES)])
        for number, colour in enumerate(islice(cycle(COLOURS), count))
    ]


def points(run: Run, across: Axis, measure: Measure) -> tuple[np.ndarray, np.ndarray]:
    """A run's measure by what goes across: two float arrays (n,), n = 0 where the run does not tell."""
    key, factor = across.key, 1.0
    if key == "flops":
        key, factor = "tokens", run.flops_per_token or 0.0
    found = [
        (row[key] * factor, row[measure.key])
        for row in run.rows
        if factor and key in row and measure.key in row
    ]
    pairs = np.array(found, dtype=float).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def smoothed(across: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rolling median over about a 25th of the steps, at CENTRES of them at most.

    It looks at fewer steps at the steep beginning, and back only at the end, which one noisy step must not bend.
    """
    reach = max(4, len(up) // 50)
    centres = np.unique(np.linspace(0, len(up) - 1, min(CENTRES, len(up))).astype(int))
    medians = []
    for centre in centres:
        near = min(reach, centre)
        medians.append(np.median(up[centre - near : centre + near + 1]))
    return across[centres], np.array(medians)


def axes_told(runs: Sequence[Run]) -> list[Axis]:
    """What can go across: FLOPs only where a run tells those of a token."""
    return [
        axis for axis in ACROSS if any(len(points(run, axis, each)[0]) for run in runs for each in MEASURES)
    ]


def notes(runs: Sequence[Run]) -> list[str]:
    """What the plots leave out, in words."""
    silent = [run.name for run in runs if run.rows and not run.flops_per_token]
    lines = []
    if silent:
        whose = (
            "no run's record tells"
            if len(silent) == sum(bool(run.rows) for run in runs)
            else (f"{', '.join(silent)} left out: the record does not tell")
        )
        lines.append(f"by FLOPs: {whose} the FLOPs of a token (flops_per_token in meta.json)")
    bare = [run.name for run in runs if run.rows and not run.bits]
    if bare:
        lines.append(f"bits per byte: not measured yet in {', '.join(bare)}")
    if len({run.settings.get("held_out") for run in runs if run.bits}) > 1:
        lines.append("bits per byte: the runs' held-out stories differ")
    empty = [run.name for run in runs if not run.rows]
    if empty:
        lines.append(f"no curve: {', '.join(empty)} without a readable step")
    return lines


def draw(axes: Axes, runs: Sequence[Run], across: Axis, measure: Measure) -> None:
    """One plot."""
    lines = [points(run, across, measure) for run in runs]
    lengths = [x[-1] for x, _ in lines if len(x)]
    longest = max(lengths, default=0.0)
    size, unit = next(
        ((size, name) for least, size, name in across.units if longest >= least), (1.0, across.title)
    )
    if not lengths:
        axes.text(
            0.5, 0.5, "not measured yet", ha="center", va="center", transform=axes.transAxes, color="grey"
        )
        axes.set(xticks=[], yticks=[], ylabel=measure.title, xlabel=across.title)
        return
    highest = []
    for (x, y), style, order in zip(lines, styles(len(runs)), range(len(runs), 0, -1), strict=True):
        if not len(x):
            continue
        look: dict[str, Any] = {"color": style.colour, "zorder": 2 + order}
        if measure.key == "loss":
            every = max(1, len(x) * len(runs) // RAW_POINTS)
            axes.plot(
                x[::every] / size, y[::every], ".", markersize=3.5, alpha=0.35, markeredgewidth=0, **look
            )
            x, y = smoothed(x, y)
            axes.plot(x / size, y, linestyle=style.dash, linewidth=1.6, **look)
            highest.append(np.max(y[x >= 0.04 * x[-1]]))
        else:
            axes.plot(x / size, y, linestyle=style.dash, linewidth=1.4, marker="o", markersize=4, **look)
    if highest:
        low = min(np.min(y) for _, y in lines if len(y))
        axes.set_ylim(low - 0.04 * (max(highest) - low), max(highest) + 0.06 * (max(highest) - low) + 1e-9)
    if longest > FAR_APART * min(lengths, default=0.0) > 0:
        scale_widely(axes, min(x[0] for x, _ in lines if len(x)) / size, longest / size)
    else:
        axes.set_xlim(left=0)
        axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel(unit)
    axes.set_ylabel(measure.title)
    axes.grid(alpha=0.25, linewidth=0.6)


def scale_widely(axes: Axes, first: float, last: float) -> None:
    """A logarithmic scale across, labelled with plain numbers; the first points of a run stand at its left end."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axes.set_xscale("log")
    axes.set_xlim(max(first, last / 3000) * 0.9, last * 1.1)
    steps = (1.0, 2.0, 5.0) if last / max(first, last / 3000) < 200 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


@contextlib.contextmanager
def look() -> Iterator[None]:
    """The plots' own look; names in a script that the font does not have are no reason for a warning."""
    import matplotlib

    chosen = matplotlib.rc_context(
        {
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "svg.hashsalt": "smalltale",
            "svg.fonttype": "none",
        }
    )
    with chosen, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def write_picture(runs: Sequence[Run], path: Path) -> None:
    """Every plot in one picture. Raises FileProblem for another ending, or where no run has a step."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    if path.suffix.lower() not in ENDINGS:
        raise FileProblem(f"{path}: a picture is written as .png, .svg or .pdf; choose one of these endings")
    told = axes_told(runs)
    if not told:
        raise FileProblem("no run has a readable step yet; there is nothing to draw")
    drawn = [(run, style) for run, style in zip(runs, styles(len(runs)), strict=True) if run.rows]
    with look():
        figure = Figure(figsize=(4.2 * len(told), 6.6 + 0.2 * len(drawn)), layout="constrained", dpi=130)
        for places, measure in zip(figure.subplots(2, len(told), squeeze=False), MEASURES, strict=True):
            for axes, across in zip(places, told, strict=True):
                draw(axes, runs, across, measure)
        handles = [
            Line2D([], [], color=style.colour, linestyle=style.dash, linewidth=2) for _, style in drawn
        ]
        legend = figure.legend(
            handles, [str(number) for number in range(len(drawn))], loc="outside lower center", frameon=False
        )
        # Set afterwards: a name may begin with an underscore or hold dollar signs, which mean something in a label.
        for words, (run, _) in zip(legend.get_texts(), drawn, strict=True):
            words.set_parse_math(False)
            words.set_text(f"{run.name}   {run.state}, best {decimals(run.best_bits, 4)} bits per byte")
        with new_file(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:].lower())


def plots(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Each plot as a title and an SVG element, for a page whose table tells the runs' colours."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    made = []
    with look():
        for measure in MEASURES:
            for across in axes_told(runs):
                figure = Figure(figsize=(4.8, 3.1), layout="constrained")
                draw(figure.add_subplot(), runs, across, measure)
                written = io.StringIO()
                FigureCanvasSVG(figure).print_svg(written, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
                element = written.getvalue()
                made.append((f"{measure.name} by {across.title}", element[element.index("<svg") :]))
    return made
