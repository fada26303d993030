"""Records of proofs: content, staleness, and that a stale or failed record makes no command fail."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smalltale.cli import build_app
from smalltale.errors import SmalltaleError
from smalltale.files import write_json
from smalltale.frameworks import install as installing
from smalltale.frameworks import proving, records
from smalltale.frameworks.framework import FRAMEWORK_NAMES, all_frameworks, get_framework
from smalltale.frameworks.proving import RUN
from smalltale.frameworks.records import Proof, figures_table, is_stale, read_record, source_hashes

COMPOSER = get_framework("composer")


def proof(**changes: object) -> Proof:
    module, constraints = source_hashes(COMPOSER)
    current = Proof(
        name="composer",
        passed=True,
        message="",
        proven_at="2026-11-26T00:00:00+00:00",
        version="1",
        module_hash=module,
        constraints_hash=constraints,
        machine="",
        seconds=1.0,
    )
    return replace(current, **changes)  # type: ignore[arg-type]


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copies of the recipe files and constraints that a test may change."""
    shutil.copytree(records.TEMPLATES, tmp_path / "templates", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(installing.CONSTRAINTS, tmp_path / "constraints")
    monkeypatch.setattr(records, "TEMPLATES", tmp_path / "templates")
    monkeypatch.setattr(installing, "CONSTRAINTS", tmp_path / "constraints")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "stale"),
    [
        ("templates/composer/train.py", True),
        ("templates/shared/stories.py", True),
        ("constraints/composer.txt", True),
        ("templates/trainer/train.py", False),
        ("constraints/trainer.txt", False),
    ],
)
def test_a_record_is_stale_when_its_recipe_or_constraints_changed(
    path: str, stale: bool, copies: Path
) -> None:
    record = proof()
    assert not is_stale(COMPOSER, record)
    (copies / path).write_text((copies / path).read_text() + "# changed\n")
    assert is_stale(COMPOSER, record) == stale


@pytest.mark.parametrize("name", sorted(path.stem for path in records.RECORDS.glob("*.json")))
def test_a_record_has_a_complete_run_or_its_failure(name: str) -> None:
    record = read_record(get_framework(name))
    assert record is not None
    assert record.name == name
    if not record.passed:
        assert record.message
        return
    figures = record.figures
    assert figures["steps"] >= RUN["steps"]
    assert figures["last_losses"] < figures["first_losses"] - proving.MIN_LOSS_FALL
    assert min(figures["tokens_per_second"], figures["own_tokens_per_second"]) > 0
    if get_framework(name).read is not None:
        assert figures["largest_logit_difference"] <= 1e-5
        assert figures["completions"] == 8


def test_the_table_shows_stale_failed_and_missing_rows_and_exits_with_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "RECORDS", tmp_path)
    monkeypatch.setenv("SMALLTALE_FRAMEWORKS", str(tmp_path / "made"))
    monkeypatch.setenv("COLUMNS", "100")
    write_json(tmp_path / "composer.json", asdict(proof(module_hash="another")))
    write_json(tmp_path / "trainer.json", asdict(proof(name="trainer", passed=False)))
    result = CliRunner().invoke(build_app(), ["frameworks"])
    assert result.exit_code == 0
    lines = {line.split()[1]: line for line in result.output.splitlines() if line.startswith("│")}
    assert set(lines) == set(FRAMEWORK_NAMES)
    assert "2026-11-26, stale" in lines["composer"]
    assert "FAILED 2026-11-26" in lines["trainer"]
    assert "never" in lines["nanogpt"]


def test_a_framework_without_its_checkout_is_skipped_by_default_and_an_error_when_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NANOGPT", "LLAMA2C"):
        monkeypatch.delenv(name, raising=False)
    proven: list[str] = []

    def record_names(frameworks: list[object], *args: object, **kwargs: object) -> list[Proof]:
        proven.extend(framework.name for framework in frameworks)  # type: ignore[attr-defined]
        return []

    monkeypatch.setattr(proving, "prove_all", record_names)
    result = CliRunner().invoke(build_app(), ["frameworks", "prove"])
    assert proven == [framework.name for framework in all_frameworks() if framework.needs_checkout is None]
    assert "nanogpt is skipped: nanoGPT runs from a checkout" in result.output
    refused = CliRunner().invoke(build_app(), ["frameworks", "prove", "nanogpt"])
    assert isinstance(refused.exception, SmalltaleError)


def test_the_page_has_the_figures_of_the_records() -> None:
    """To update the page, paste the output of `smalltale frameworks --markdown`."""
    page = (Path(__file__).parents[2] / "docs" / "frameworks.md").read_text()
    assert figures_table(all_frameworks()) in page
