"""Training an export folder, and reading its losses and speed."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from smalltale.errors import FileProblem, SmalltaleError
from smalltale.files import sha256_file, write_json
from smalltale.frameworks import install as installing
from smalltale.frameworks.exporting import export
from smalltale.frameworks.framework import get_framework
from smalltale.frameworks.run import median_tokens_per_second, read_export_framework, read_run, train

from .conftest import Prepared

STEP_LINES = {
    "nanogpt": "iter {step}: loss {loss:.4f}, time {milliseconds:.2f}ms, mfu -100.00%",
    "llama2c": "{step} | loss {loss:.4f} | lr 1.000000e-04 | {milliseconds:.2f}ms | mfu 0.10%",
    "litgpt": "Epoch 1 | iter {step} step {step} | loss train: {loss:.3f}, val: n/a | iter time: {milliseconds:.2f} ms (step)",
}


@pytest.mark.parametrize("name", STEP_LINES)
def test_losses_and_speed_are_read_from_printed_lines(name: str, prepared: Prepared, tmp_path: Path) -> None:
    out = export(get_framework(name), prepared.tokens, prepared.tokenizer, tmp_path / "out", prepared.plan)
    printed = ["number of parameters: 1.06M"]
    for step in range(40):
        # The first window is slow, as in real runs.
        values = {"step": step, "loss": 7 - step / 10, "milliseconds": 900.0 if step < 10 else 50.0}
        printed.append(STEP_LINES[name].format(**values))
    run = read_run(get_framework(name), out, "\n".join(printed))
    assert run.losses == pytest.approx([7 - step / 10 for step in range(40)])
    assert run.tokens_per_second == pytest.approx(4 * 32 / 0.05)


def test_a_speed_is_the_median_of_windows_and_needs_one() -> None:
    assert median_tokens_per_second([9.0] * 10 + [1.0] * 10 + [2.0] * 10 + [7.0] * 10, 100) == 50
    assert median_tokens_per_second([1.0] * 19, 100) is None


def test_a_run_without_recorded_losses_is_reported(prepared: Prepared, tmp_path: Path) -> None:
    out = export(
        get_framework("trainer"), prepared.tokens, prepared.tokenizer, tmp_path / "out", prepared.plan
    )
    with pytest.raises(FileProblem, match=r"no run\.json"):
        read_run(get_framework("trainer"), out, "")
    (out / "model").mkdir()
    write_json(out / "model" / "run.json", {"losses": [3.0], "tokens_per_second": None})
    assert read_run(get_framework("trainer"), out, "").losses == [3.0]


def test_only_an_export_folder_is_trained_in(prepared: Prepared, tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match="smalltale export"):
        read_export_framework(prepared.tokens)
    out = export(get_framework("mlx"), prepared.tokens, prepared.tokenizer, tmp_path / "out", prepared.plan)
    assert read_export_framework(out).name == "mlx"


def test_a_recipe_runs_with_its_environment_first_and_a_failing_line_ends_it(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An environment like those of `install`; its python is a link to this one.
    monkeypatch.setenv("SMALLTALE_FRAMEWORKS", str(tmp_path / "made"))
    environment_folder = tmp_path / "made" / "mlx"
    (environment_folder / "env" / "bin").mkdir(parents=True)
    (environment_folder / "env" / "bin" / "python").symlink_to(sys.executable)
    constraints_hash = sha256_file(installing.constraints_path(get_framework("mlx")))
    write_json(
        environment_folder / "installed.json",
        {"version": "1", "seconds": 1, "megabytes": 1, "constraints": constraints_hash},
    )
    out = export(get_framework("mlx"), prepared.tokens, prepared.tokenizer, tmp_path / "out", prepared.plan)
    script = "import json, os; json.dump(dict(os.environ), open('seen.json', 'w'))"
    framework = replace(get_framework("mlx"), train=(f'python -c "{script}"',))
    train(framework, out, {"STEPS": "4"})
    seen = json.loads((out / "seen.json").read_text())
    assert seen["PATH"].split(os.pathsep)[0] == str(environment_folder / "env" / "bin")
    assert (seen["STEPS"], seen["HF_HUB_OFFLINE"]) == ("4", "1")
    failing = replace(framework, train=("exit 3", "touch never"))
    with pytest.raises(SmalltaleError, match="ended with status 3"):
        train(failing, out, {})
    assert not (out / "never").exists()


def test_a_framework_that_is_not_installed_is_reported_with_the_install_command(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMALLTALE_FRAMEWORKS", str(tmp_path / "made"))
    out = export(get_framework("mlx"), prepared.tokens, prepared.tokenizer, tmp_path / "out", prepared.plan)
    with pytest.raises(SmalltaleError, match="smalltale frameworks install mlx"):
        train(get_framework("mlx"), out, {})
