"""Runs read back from their folders, whole and broken, compared and drawn."""

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
from smalltale.experiments.compare import amount, cells, differing, short_device, span
from smalltale.experiments.plots import (
    ACROSS,
    CENTRES,
    COLOURS,
    MEASURES,
    axes_told,
    notes,
    plots,
    points,
    smoothed,
    styles,
    write_picture,
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


def age(folder: Path, seconds: float) -> None:
    for path in folder.iterdir():
        os.utime(path, (time.time() - seconds,) * 2)


def test_a_finished_run_is_told_whole(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run"))
    assert (run.state, run.trouble) == ("finished", ())
    assert cells(run) | {"age": ""} == {
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
    told = run.as_dict()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["tokens_per_second"] == 50


def test_a_run_that_wrote_lately_is_running_and_a_silent_one_was_stopped(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", finished=False)
    assert cells(read_run(folder))["state"] == "running 50 %"
    age(folder, 150)
    assert read_run(folder).state == "running", "20 steps of 2 s more are waited for"
    age(folder, 200)
    assert cells(read_run(folder))["state"] == "stopped 50 %"


def test_a_run_is_told_by_its_metrics_where_they_are_newer_than_its_record(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", finished=False)
    with (folder / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 41, "tokens": 4100, "seconds": 82.0, "loss": 2.0}\n{"step": 42, "tok')
    run = read_run(folder)
    assert (run.reached("step"), run.reached("tokens"), run.trouble) == (41, 4100, ())


@pytest.mark.parametrize(
    ("name", "content", "state", "trouble"),
    [
        ("meta.json", '{"kind": "chec', "broken", "meta.json is cut short or no JSON"),
        ("meta.json", "\x00\x00", "broken", "meta.json is cut short or no JSON"),
        ("meta.json", None, "running", "no meta.json yet"),
        ("config.json", "[]", "finished", "config.json holds no table"),
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
def test_what_is_wrong_with_a_run_is_told_and_the_others_are_listed(
    tmp_path: Path, name: str, content: str | None, state: str, trouble: str
) -> None:
    folder = make_run(tmp_path / "bad")
    make_run(tmp_path / "good")
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    runs = {run.name: run for run in find_runs([tmp_path])}
    assert runs["bad"].state == state
    assert "; ".join(runs["bad"].trouble).startswith(trouble)
    assert bool(runs["bad"].trouble) == bool(trouble)
    assert runs["good"].trouble == ()
    json.dumps([run.as_dict() for run in runs.values()], allow_nan=False)
    write_page(list(runs.values()), tmp_path / "page.html")
    write_picture(list(runs.values()), tmp_path / "curves.png")


def test_runs_are_found_in_and_under_folders_each_once_the_newest_first(tmp_path: Path) -> None:
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


def test_a_folder_without_runs_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileProblem, match="no run in"):
        find_runs([tmp_path])
    with pytest.raises(FileProblem, match="does not exist"):
        find_runs([tmp_path / "gone"])
    with pytest.raises(FileProblem, match="is a file"):
        find_runs([tmp_path / "file"])


def test_the_settings_in_which_runs_differ_are_found_with_their_defaults(tmp_path: Path) -> None:
    make_run(tmp_path / "a", rate=0.02)
    make_run(tmp_path / "b", rate=0.04)
    (make_run(tmp_path / "c") / "meta.json").write_text("{")
    (tmp_path / "c" / "config.json").unlink()
    runs = sorted(find_runs([tmp_path]), key=lambda run: run.name)
    assert differing(runs) == {"training.optim.matrix_rate": [0.02, 0.04, None]}
    assert differing(runs[:1]) == {}


def test_a_smoothed_loss_is_a_rolling_median_that_one_spike_does_not_move() -> None:
    x = np.arange(5000.0)
    y = 8 - x / 1000
    y[2500] = y[-1] = 1e6
    at, medians = smoothed(x, y)
    assert len(at) == CENTRES
    assert (at[0], at[-1]) == (0, 4999)
    assert np.abs(medians - (8 - at / 1000))[at < 4900].max() < 2e-3
    assert np.abs(medians - (8 - at / 1000)).max() < 0.06
    assert [len(part) for part in smoothed(x[:1], y[:1])] == [1, 1]


def test_curves_go_by_tokens_time_and_flops_and_flops_are_left_out_where_unknown(tmp_path: Path) -> None:
    known = read_run(make_run(tmp_path / "known", flops=6e6))
    silent = read_run(make_run(tmp_path / "silent", flops=None))
    x, y = points(known, ACROSS[2], MEASURES[0])
    assert x.tolist() == [6e6 * tokens for tokens in (1000, 2000, 3000, 4000)]
    assert y.tolist() == [2.5, 2.0, 1.5, 2.0]
    assert [axis.key for axis in axes_told([known, silent])] == ["tokens", "seconds", "flops"]
    assert [axis.key for axis in axes_told([silent])] == ["tokens", "seconds"]
    assert notes([known]) == []
    assert "silent left out" in notes([known, silent])[0]
    assert "no run's record tells" in notes([silent])[0]
    assert [title for title, _ in plots([silent])] == [
        "Bits per byte by tokens",
        "Bits per byte by time",
        "Training loss by tokens",
        "Training loss by time",
    ]


def test_runs_far_apart_in_length_are_drawn_on_a_logarithmic_scale(tmp_path: Path) -> None:
    runs = [
        read_run(make_run(tmp_path / "short", steps=10)),
        read_run(make_run(tmp_path / "long", steps=400)),
    ]
    by_tokens = dict(plots(runs))["Training loss by tokens"]
    assert {"0.1", "1", "10"} <= set(re.findall(r"<text[^>]*>([^<]*)</text>", by_tokens))


def test_a_plot_of_what_no_run_has_measured_says_so(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "young", steps=9))
    drawn = dict(plots([run]))
    assert "not measured yet" in drawn["Bits per byte by tokens"]
    assert "not measured yet" not in drawn["Training loss by tokens"]


def test_every_run_has_a_look_of_its_own() -> None:
    looks = {(style.colour, str(style.dash)) for style in styles(4 * len(COLOURS))}
    assert len(looks) == 4 * len(COLOURS)


@pytest.mark.parametrize("name", ["_x", "$\\frac{", "a & <b>", "学习 😀"])
def test_any_name_can_stand_in_the_picture_and_on_the_page(tmp_path: Path, name: str) -> None:
    make_run(tmp_path / name)
    make_run(tmp_path / "other")
    runs = find_runs([tmp_path])
    write_picture(runs, tmp_path / "curves.svg")
    write_page(runs, tmp_path / "page.html")
    picture, page = ((tmp_path / file).read_text(encoding="utf-8") for file in ("curves.svg", "page.html"))
    escaped = name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert escaped in picture
    assert escaped in page


def test_the_page_runs_no_script_and_loads_nothing(tmp_path: Path) -> None:
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


def test_a_picture_has_one_of_three_endings_and_something_to_draw(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run"))
    with pytest.raises(FileProblem, match=r"\.png, \.svg or \.pdf"):
        write_picture([run], tmp_path / "curves.gif")
    (run.folder / "metrics.jsonl").write_text("")
    with pytest.raises(FileProblem, match="nothing to draw"):
        write_picture([read_run(run.folder)], tmp_path / "curves.png")


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "–"), (0, "0"), (999, "999"), (999.9, "1.00k"), (5_767_180, "5.77M"), (29_999_999, "30.0M"),
     (120e6, "120M"), (999.9e6, "1.00B"), (2e15, "2000T")],
)  # fmt: skip
def test_amounts_have_three_figures(value: float | None, words: str) -> None:
    assert amount(value) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "–"), (0.4, "0 s"), (89, "89 s"), (300, "5.0 min"), (7200, "2.0 h"), (400_000, "4.6 days")],
)
def test_lengths_of_time_have_one_unit(seconds: float | None, words: str) -> None:
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("NVIDIA H200", "H200"),
        ("Intel(R) Core(TM) i7-8550U CPU @ 1.80GHz", "Intel Core i7-8550U"),
        ("cpu", "cpu"),
    ],
)
def test_a_device_is_named_shortly(name: str, words: str) -> None:
    assert short_device(name) == words
