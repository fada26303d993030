"""Renders runs as one HTML page: table, differing settings and curves, without scripts or external assets.

Input: runs. Output: an HTML file. Note: names and settings are untrusted; the template escapes everything except the plots.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import jinja2

from smalltale.experiments.compare import COLUMNS, differing_settings, format_cells, format_setting
from smalltale.experiments.plots import list_omissions, make_line_styles, render_plots
from smalltale.experiments.runs import TrainingRun
from smalltale.files import atomic_file


def write_page(runs: Sequence[TrainingRun], path: Path) -> None:
    """Write the page atomically."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("smalltale", "experiments"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("runs.html.jinja").render(
        generated_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        columns=COLUMNS,
        runs=list(zip(runs, make_line_styles(len(runs)), map(format_cells, runs), strict=True)),
        best=min((bits for run in runs for bits in run.bits_per_byte), default=None),
        differing={key: list(map(format_setting, row)) for key, row in differing_settings(runs).items()},
        plots=render_plots(runs),
        omissions=list_omissions(runs),
    )
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
