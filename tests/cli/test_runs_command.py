"""`smalltale runs` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from smalltale.cli import build_app
from smalltale.cli.runs import show_differing, show_runs
from smalltale.errors import FileProblem
from smalltale.experiments.runs import find_runs


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs that differ in a learning rate, and one that was cut short."""
    for name, rate in (("a", 0.02), ("b", 0.04)):
        folder = tmp_path / name
        folder.mkdir()
        meta = {
            "kind": "checkpoint",
            "finished": True,
            "made_at": "2026-01-01T00:00:00+00:00",
            "recipe": {"name": "demo"},
            "training": {"optim": {"matrix_rate": rate}},
            "hardware": {"name": "NVIDIA GeForce RTX 4090 Laptop GPU"},
        }
        (folder / "meta.json").write_text(json.dumps(meta))
        (folder / "config.json").write_text('{"counted_parameters": 5767180, "weight_class": "small"}')
        row = '{"step": %d, "tokens": %d, "seconds": %d, "loss": 4.0, "bits_per_byte": 1.25}\n'
        (folder / "metrics.jsonl").write_text("".join(row % (n, 100 * n, n) for n in range(1, 9)))
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "meta.json").write_text('{"kind": "chec')
    (tmp_path / "cut" / "metrics.jsonl").touch()
    return tmp_path


def run_command(*words: str) -> str:
    result = CliRunner().invoke(build_app(), ["runs", *words], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_runs_are_listed_compared_and_plotted(runs: Path) -> None:
    output = run_command(
        str(runs), "--compare", "--plot", str(runs / "curves.png"), "--html", str(runs / "page" / "runs.html")
    )
    assert "5.77M" in output
    assert "cut: meta.json is " in output
    assert "training.optim.matrix_rate" in output
    assert "by FLOPs: all runs left out" in output
    assert (runs / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (runs / "page" / "runs.html").read_text(encoding="utf-8").count("<figure>") == 4


def test_json_output_is_one_object(runs: Path) -> None:
    summary = json.loads(run_command(str(runs), "--json"))
    assert {run["name"]: run["best_bits_per_byte"] for run in summary["runs"]} == {
        "a": 1.25,
        "b": 1.25,
        "cut": None,
    }
    assert set(summary["differing"]) == {"training.optim.matrix_rate"}


def test_a_narrow_terminal_hides_columns_and_lists_them(runs: Path) -> None:
    found_runs = find_runs([runs])
    for width in (60, 80, 400):
        console = Console(width=width, record=True, file=(runs / "screen").open("w"))
        show_runs(found_runs, console)
        console.file.close()
        lines = console.export_text().splitlines()
        assert max(map(len, lines[:7])) <= width
        assert sum("1.2500" in line for line in lines[:7]) == 2
        assert "…" not in "".join(lines[:7]), "a column is left out whole"
        assert any("hidden, the terminal is too narrow" in line for line in lines) == (width < 400)


def test_differing_settings_are_complete_in_a_narrow_terminal(runs: Path) -> None:
    found_runs = find_runs([runs])
    for width in (40, 80):
        console = Console(width=width, record=True, file=(runs / "screen").open("w"))
        show_differing(found_runs, console)
        console.file.close()
        output = console.export_text()
        assert "training.optim.matrix_rate" in output
        assert "0.02" in output
        assert max(len(line) for line in output.splitlines()) <= width


def test_a_folder_without_runs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match="no run in"):
        run_command(str(tmp_path))
