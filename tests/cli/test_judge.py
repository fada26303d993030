"""`smalltale judge`: every mistake is reported before any money is spent."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from smalltale.cli import build_app
from smalltale.submission import Completion, write_submission


def run_judge(*words: object) -> tuple[int, str]:
    """Run the command; returns its exit code, and what it printed or raised."""
    result = CliRunner().invoke(build_app(), ["judge", *map(str, words)], env={"COLUMNS": "140"})
    return result.exit_code, result.output + str(result.exception or "")


@pytest.fixture
def submission(tmp_path: Path) -> Path:
    rows = [Completion(f"Prompt {n // 4}", f"Story {n}.") for n in range(8)]
    write_submission(tmp_path / "team" / "s.csv", rows, {"team": "t"})
    return tmp_path / "team" / "s.csv"


def test_a_dry_run_prints_calls_tokens_and_cost_and_writes_nothing(tmp_path: Path, submission: Path) -> None:
    judges = ["--judge", "openai/a", "--judge", "http://h/v1#b", "--price", "openai/a=1000/2000"]
    code, output = run_judge("run", submission, "--out", tmp_path / "out", *judges, "--dry-run")
    assert code == 0, output
    first, second = (
        next(line for line in output.splitlines() if name in line) for name in ("openai/a", "h/v1#b")
    )
    assert "8" in first
    assert "no price given" in second
    assert "2,800" in first, "eight answers of half the rubric's 700 tokens"
    assert not (tmp_path / "out").exists()


def test_a_dry_run_of_qualify_asks_no_judge(tmp_path: Path) -> None:
    judge = ["--judge", "openai/a", "--price", "openai/a=1/2", "--dry-run"]
    code, output = run_judge("qualify", "--out", tmp_path / "out", *judge)
    assert code == 0, output
    assert "384" in output, (
        "64 stories twice, 16 under 8 attacks, 6 of which are judged again without them, 16 pairs twice"
    )
    assert not (tmp_path / "out").exists()


def test_a_dry_run_leaves_out_cached_judgements(tmp_path: Path, submission: Path) -> None:
    out = tmp_path / "out"
    assert run_judge("run", submission, "--out", out, "--judge", "scripted")[0] == 0
    submission.write_text(
        submission.read_text(encoding="utf-8") + "Prompt 2,A\nPrompt 2,B\nPrompt 2,C\nPrompt 2,D\n",
        encoding="utf-8",
    )
    before = (out / "journal.jsonl").read_bytes()
    code, output = run_judge("run", submission, "--out", out, "--judge", "scripted", "--dry-run")
    assert code == 0, output
    line = next(line for line in output.splitlines() if "scripted" in line)
    assert [cell.strip() for cell in line.split("│")][2] == "4", line
    assert "are not asked again" in output
    assert (out / "journal.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--judge", "openai/gpt-x"], "OPENAI_API_KEY"),
        (["--judge", "unheard"], "unknown judge 'unheard'"),
        (["--judge", "scripted", "--rubric", "papr"], "did you mean 'paper'"),
        (["--judge", "scripted", "--rubric", "pairwise"], "compares pairs"),
        (
            ["--judge", "scripted", "--set", "judging.budget_dollars=1"],
            "a budget needs the price of every judge",
        ),
        (["--judge", "scripted", "--set", "judging.attempts=0"], "choose at least 1"),
        (["--judge", "scripted", "--prompts", "other.txt"], "answers 2 prompts that are not in the set"),
        (["--judge", "scripted", "--qualification", "none.json"], "does not exist"),
    ],
)
def test_a_wrong_option_is_reported_and_no_folder_is_made(
    tmp_path: Path, submission: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.txt").write_text("Another prompt\n", encoding="utf-8")
    code, output = run_judge("run", submission, "--out", tmp_path / "out", *words)
    assert code != 0
    assert message in output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is empty"), ("prompt,completion\n", "no "), ("prompt,story\na,b\n", "completion")],
)
def test_an_empty_or_broken_submission_is_reported(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "s.csv").write_text(text, encoding="utf-8")
    code, output = run_judge("run", tmp_path / "s.csv", "--judge", "scripted", "--out", tmp_path / "out")
    assert code != 0
    assert message in output
    assert not (tmp_path / "out").exists()
