"""Training runs, complete and damaged, are read from their folders, compared and plotted."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smalltale.errors import FileProblem
from smalltale.experiments.compare import (
    differing_settings,
    format_cells,
    format_count,
    format_duration,
    shorten_device_name,
)
from smalltale.experiments.plots import (
    COLOURS,
    MAX_SMOOTH_POINTS,
    X_AXES,
    Y_AXES,
    available_x_axes,
    get_curve,
    list_omissions,
    make_line_styles,
    render_plots,
    smooth_curve,
    write_figure,
)
from smalltale.experiments.report_page import write_page
from smalltale.experiments.runs import find_runs, read_run


def make_run(
    folder: Path,
    *,
    steps: int = 40,
    finished: bool = True,
    rate: float = 0.02,
    flops: float | None = 6e6,
    made_at: str = "2026-01-01T00:00:00+00:00",
) -> Path:
    """A run folder as training leaves it, without weights."""
    folder.mkdir(parents=True)
    meta: dict[str, Any] = {
        "recipe": {"name": "demo", "weight_class": "small", "corpus": {"sources": ["fable"]}},
        "git_commit": "0123456789abcdef",
        "smalltale_version": "0.1.0",
        "made_at": made_at,
        "counts": {"steps": steps, "tokens": 100 * steps},
        "seconds": 2.0 * steps,
        "kind": "checkpoint",
        "finished": finished,
        "hardware": {"device": "cpu", "name": "Intel(R) Xeon(R) Processor"},
        "training": {"schedule": {"minutes": 0.0, "steps": 80}, "optim": {"matrix_rate": rate}},
    }
    if flops is not None:
        meta["flops_per_token"] = flops
    (folder / "meta.json").write_text(json.dumps(meta))
    (folder / "config.json").write_text(
        json.dumps({"model": {"width": 64}, "counted_parameters": 360_000, "weight_class": "small"})
    )
    lines = []
    for step in range(1, steps + 1):
        lines.append(
            {"step": step, "tokens": 100 * step, "seconds": 2.0 * step, "loss": 8 / step**0.3 + rate}
        )
        if step % 10 == 0:
            lines.append({"step": step, "bits_per_byte": 3 - step / 20 + (step == 40)})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def set_age(folder: Path, seconds: float) -> None:
    for path in folder.iterdir():
        os.utime(path, (time.time() - seconds,) * 2)


def test_a_finished_run_is_read_completely(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run"))
    assert (run.state, run.problems) == ("finished", ())
    assert format_cells(run) | {"age": ""} == {
        "run": "run",
        "state": "finished",
        "recipe": "demo",
        "class": "small",
        "counted": "360k",
        "device": "Intel Xeon",
        "steps": "40",
        "tokens": "4.00k",
        "time": "80 s",
        "loss": "2.890",
        "last bits/byte": "2.0000",
        "best bits/byte": "1.5000",
        "commit": "01234567",
        "age": "",
    }
    table = run.as_dict()
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    assert table["tokens_per_second"] == 50


def test_a_run_with_recent_writes_is_running_and_a_silent_run_is_stopped(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", finished=False)
    assert format_cells(read_run(folder))["state"] == "running 50 %"
    set_age(folder, 150)
    assert read_run(folder).state == "running", "it has another 20 steps of 2 s"
    set_age(folder, 200)
    assert format_cells(read_run(folder))["state"] == "stopped 50 %"


def test_metrics_newer_than_the_record_take_precedence(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", finished=False)
    with (folder / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 41, "tokens": 4100, "seconds": 82.0, "loss": 2.0}\n{"step": 42, "tok')
    run = read_run(folder)
    assert (run.latest("step"), run.latest("tokens"), run.problems) == (41, 4100, ())


@pytest.mark.parametrize(
    ("name", "content", "state", "problem"),
    [
        ("meta.json", '{"kind": "chec', "broken", "meta.json is cut short or not JSON"),
        ("meta.json", "\x00\x00", "broken", "meta.json is cut short or not JSON"),
        ("meta.json", None, "running", "no meta.json yet"),
        ("config.json", "[]", "finished", "config.json does not contain a JSON object"),
        ("metrics.jsonl", None, "finished", "metrics.jsonl: "),
        ("metrics.jsonl", "", "finished", "no step yet"),
        (
            "metrics.jsonl",
            "no\nJSON\n",
            "finished",
            "metrics.jsonl has 2 unreadable lines, the first is line 1",
        ),
        (
            "metrics.jsonl",
            '{"step": 1, "tokens": 100, "seconds": 1, "loss": NaN}\n{"step": 2, "loss": "x"}\n',
            "finished",
            "the loss was not a number at step 1",
        ),
        (
            "meta.json",
            '{"kind": "checkpoint", "counts": 3, "recipe": [], "training": {"schedule": 1}, "hardware": {"name": 1}}',
            "running",
            "",
        ),
    ],
)
def test_the_problems_of_a_damaged_run_are_described_and_other_runs_still_listed(
    tmp_path: Path, name: str, content: str | None, state: str, problem: str
) -> None:
    folder = make_run(tmp_path / "bad")
    make_run(tmp_path / "good")
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    runs = {run.name: run for run in find_runs([tmp_path])}
    assert runs["bad"].state == state
    assert "; ".join(runs["bad"].problems).startswith(problem)
    assert bool(runs["bad"].problems) == bool(problem)
    assert runs["good"].problems == ()
    json.dumps([run.as_dict() for run in runs.values()], allow_nan=False)
    write_page(list(runs.values()), tmp_path / "page.html")
    write_figure(list(runs.values()), tmp_path / "curves.png")


def test_runs_in_and_under_folders_are_listed_once_newest_first(tmp_path: Path) -> None:
    old = make_run(tmp_path / "week" / "old", made_at="2026-01-01T00:00:00+00:00")
    make_run(old / "best")
    make_run(tmp_path / "week" / "new", made_at="2026-02-01T00:00:00")
    make_run(tmp_path / ".hidden")
    make_run(tmp_path / "1" / "2" / "3" / "4" / "5")
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    (tokens / "meta.json").write_text('{"kind": "tokens"}')
    assert [run.name for run in find_runs([tmp_path, old])] == ["new", "old"]
    assert [run.name for run in find_runs([old])] == ["old"]


def test_a_folder_without_runs_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileProblem, match="no run in"):
        find_runs([tmp_path])
    with pytest.raises(FileProblem, match="does not exist"):
        find_runs([tmp_path / "gone"])
    with pytest.raises(FileProblem, match="is a file"):
        find_runs([tmp_path / "file"])


def test_differing_settings_include_defaults(tmp_path: Path) -> None:
    make_run(tmp_path / "a", rate=0.02)
    make_run(tmp_path / "b", rate=0.04)
    (make_run(tmp_path / "c") / "meta.json").write_text("{")
    (tmp_path / "c" / "config.json").unlink()
    runs = sorted(find_runs([tmp_path]), key=lambda run: run.name)
    assert differing_settings(runs) == {"training.optim.matrix_rate": [0.02, 0.04, None]}
    assert differing_settings(runs[:1]) == {}


def test_one_spike_does_not_move_a_smoothed_loss() -> None:
    x = np.arange(5000.0)
    y = 8 - x / 1000
    y[2500] = y[-1] = 1e6
    centres, medians = smooth_curve(x, y)
    assert len(centres) == MAX_SMOOTH_POINTS
    assert (centres[0], centres[-1]) == (0, 4999)
    errors = np.abs(medians - (8 - centres / 1000))
    assert errors[centres < 4900].max() < 2e-3
    assert errors.max() < 0.06
    assert [len(array) for array in smooth_curve(x[:1], y[:1])] == [1, 1]


def test_runs_are_plotted_by_tokens_time_and_flops_if_flops_are_recorded(tmp_path: Path) -> None:
    with_flops = read_run(make_run(tmp_path / "with_flops", flops=6e6))
    without_flops = read_run(make_run(tmp_path / "without_flops", flops=None))
    x, y = get_curve(with_flops, X_AXES[2], Y_AXES[0])
    assert x.tolist() == [6e6 * tokens for tokens in (1000, 2000, 3000, 4000)]
    assert y.tolist() == [2.5, 2.0, 1.5, 2.0]
    runs = [with_flops, without_flops]
    assert [axis.key for axis in available_x_axes(runs)] == ["tokens", "seconds", "flops"]
    assert [axis.key for axis in available_x_axes([without_flops])] == ["tokens", "seconds"]
    assert list_omissions([with_flops]) == []
    assert "by FLOPs: without_flops left out" in list_omissions(runs)[0]
    assert "by FLOPs: all runs left out" in list_omissions([without_flops])[0]
    assert [title for title, _ in render_plots([without_flops])] == [
        "Bits per byte by tokens",
        "Bits per byte by time",
        "Training loss by tokens",
        "Training loss by time",
    ]


def test_runs_of_very_different_length_are_plotted_on_a_logarithmic_scale(tmp_path: Path) -> None:
    runs = [
        read_run(make_run(tmp_path / "short", steps=10)),
        read_run(make_run(tmp_path / "long", steps=400)),
    ]
    by_tokens = dict(render_plots(runs))["Training loss by tokens"]
    assert {"0.1", "1", "10"} <= set(re.findall(r"<text[^>]*>([^<]*)</text>", by_tokens))


def test_a_plot_without_measurements_says_so(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "young", steps=9))
    plot_by_title = dict(render_plots([run]))
    assert "not measured yet" in plot_by_title["Bits per byte by tokens"]
    assert "not measured yet" not in plot_by_title["Training loss by tokens"]


def test_every_run_has_its_own_line_style() -> None:
    styles = {(style.colour, str(style.dash)) for style in make_line_styles(4 * len(COLOURS))}
    assert len(styles) == 4 * len(COLOURS)


@pytest.mark.parametrize("name", ["_x", "$\\frac{", "a & <b>", "学习 😀"])
def test_any_name_can_be_used_in_the_figure_and_on_the_page(tmp_path: Path, name: str) -> None:
    make_run(tmp_path / name)
    make_run(tmp_path / "second")
    runs = find_runs([tmp_path])
    write_figure(runs, tmp_path / "curves.svg")
    write_page(runs, tmp_path / "page.html")
    figure, page = ((tmp_path / file).read_text(encoding="utf-8") for file in ("curves.svg", "page.html"))
    escaped = name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert escaped in figure
    assert escaped in page


def test_the_page_has_no_scripts_and_no_external_resources(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "<script>alert(1)<")
    meta = json.loads((folder / "meta.json").read_text())
    meta["recipe"]["name"] = '"><img src=x onerror=alert(1)>'
    (folder / "meta.json").write_text(json.dumps(meta))
    make_run(tmp_path / "b")
    write_page(find_runs([tmp_path]), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<img" not in page
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)""", page)
    assert not re.search(r"url\((?!#)|@import", page)


def test_a_figure_needs_a_supported_suffix_and_a_step_to_draw(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run"))
    with pytest.raises(FileProblem, match=r"choose \.png, \.svg or \.pdf"):
        write_figure([run], tmp_path / "curves.gif")
    (run.folder / "metrics.jsonl").write_text("")
    with pytest.raises(FileProblem, match="nothing to draw"):
        write_figure([read_run(run.folder)], tmp_path / "curves.png")


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, "–"), (0, "0"), (999, "999"), (999.9, "1.00k"), (5_767_180, "5.77M"), (29_999_999, "30.0M"),
     (120e6, "120M"), (999.9e6, "1.00B"), (2e15, "2000T")],
)  # fmt: skip
def test_counts_have_three_significant_figures(number: float | None, text: str) -> None:
    assert format_count(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0.4, "0 s"), (89, "89 s"), (300, "5.0 min"), (7200, "2.0 h"), (400_000, "4.6 days")],
)
def test_durations_have_one_unit(seconds: float | None, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("name", "short_name"),
    [
        ("NVIDIA H200", "H200"),
        ("Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz", "Intel Core i7-8550U"),
        ("cpu", "cpu"),
    ],
)
def test_device_names_are_shortened(name: str, short_name: str) -> None:
    assert shorten_device_name(name) == short_name
