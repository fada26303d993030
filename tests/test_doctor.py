from __future__ import annotations

import json
import tomllib
from pathlib import Path

from typer.testing import CliRunner

from smalltale.cli import build_app


def test_doctor_tells_machine_extras_and_an_hour_of_training() -> None:
    told = CliRunner().invoke(build_app(), ["doctor", "--json"])
    assert told.exit_code == 0, told.output
    report = json.loads(told.stdout)
    assert {"python", "torch", "device", "memory"} <= report["machine"].keys()
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    assert {each["name"] for each in report["extras"]} == set(project["optional-dependencies"])
    speeds = [each["tokens_per_second"] for each in report["hour"]]
    assert speeds == sorted(speeds, reverse=True)
    assert speeds[-1] > 0
    shown = CliRunner().invoke(build_app(), ["doctor"])
    assert "an hour of training here" in shown.output
