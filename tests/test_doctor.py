from __future__ import annotations

import json
import tomllib
from pathlib import Path

from typer.testing import CliRunner

from smalltale.cli import build_app


def test_doctor_reports_machine_extras_and_training_speed() -> None:
    result = CliRunner().invoke(build_app(), ["doctor", "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert {"python", "torch", "device", "memory"} <= report["machine"].keys()
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    assert {extra["name"] for extra in report["extras"]} == set(project["optional-dependencies"])
    speeds = [estimate["tokens_per_second"] for estimate in report["hour"]]
    assert speeds == sorted(speeds, reverse=True)
    assert speeds[-1] > 0
    shown = CliRunner().invoke(build_app(), ["doctor"])
    assert "an hour of training here" in shown.output
