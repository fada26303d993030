"""The page of runs: table, differing settings and curves in one file, without outside assets or scripts.

In: runs. Out: an HTML page. Beware: names and settings are data; the template engine escapes everything but the plots.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import jinja2

from smalltale.experiments.compare import COLUMNS, cells, differing, setting
from smalltale.experiments.plots import notes, plots, styles
from smalltale.experiments.runs import Run
from smalltale.files import new_file


def write_page(runs: Sequence[Run], path: Path) -> None:
    """Write the page, whole or not at all."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("smalltale", "pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    measured = [run.best_bits for run in runs if run.best_bits is not None]
    page = environment.get_template("runs.html").render(
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        columns=COLUMNS,
        runs=[(run, style, cells(run)) for run, style in zip(runs, styles(len(runs)), strict=True)],
        best=min(measured, default=None),
        differing={key: [setting(value) for value in values] for key, values in differing(runs).items()},
        plots=plots(runs),
        notes=notes(runs),
    )
    with new_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
