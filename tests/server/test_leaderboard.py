"""Judgements folders ranked by command, and boards that remember what did not change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from smalltale.cli import leaderboard
from smalltale.errors import SmalltaleError
from smalltale.judging.panel import Calibration
from smalltale.judging.registry import open_judges
from smalltale.judging.rubric import load_rubric
from smalltale.judging.run import judge_submission
from smalltale.ranking.entries import read_entry
from smalltale.server.leaderboard.leaderboard import Memory, make_boards
from smalltale.submission import Completion, write_submission

from .conftest import Fair, stories

QUALIFIED = Calibration(
    judge="scripted", endpoint="scripted:", rubric_hash="", mean=5.5, sd=2.0, weight=1.0, qualified=True
)


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """A judgements folder, as `smalltale judge run` writes it."""
    rows = [
        Completion(f"Prompt {p}, and", f"then {n} cats came to number {p}.")
        for p in range(3)
        for n in range(4)
    ]
    declared = {"team": "Two Foxes", "weight_class": "small", "counted_parameters": 1000}
    write_submission(tmp_path / "foxes" / "a.csv", rows, declared)
    with open_judges(["scripted"]) as judges:
        judge_submission(
            tmp_path / "foxes" / "a.csv",
            judges,
            load_rubric("paper"),
            tmp_path / "out",
            calibrations={judges[0].name: QUALIFIED},
        )
    return tmp_path / "out"


def test_a_judgements_folder_becomes_an_entry(judged: Path) -> None:
    entry = read_entry(judged)
    assert (entry.name, entry.weight_class, entry.judged, entry.expected) == ("Two Foxes", "small", 12, 12)
    assert entry.ranks
    assert set(entry.criteria) == {"grammar", "creativity", "consistency", "plot"}


def test_the_command_ranks_folders_as_a_table_and_as_json(judged: Path) -> None:
    app = typer.Typer()
    leaderboard.add_to(app)
    said = CliRunner().invoke(app, [str(judged), "--json", "--class", "small"])
    assert said.exit_code == 0
    assert [(each["rank"], each["entry"]) for each in json.loads(said.stdout)["standings"]] == [
        (1, "Two Foxes")
    ]
    assert "Leaderboard" in CliRunner().invoke(app, [str(judged)]).stdout
    assert (
        json.loads(CliRunner().invoke(app, [str(judged), "--json", "--class", "large"]).stdout)["standings"]
        == []
    )


def test_a_folder_that_is_none_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text('{"kind": "corpus"}')
    with pytest.raises(SmalltaleError, match="not a judgements folder"):
        read_entry(tmp_path)


def test_a_board_made_with_memory_is_the_one_made_without(fair: Fair) -> None:
    memory = Memory()
    for handle, word in (("ada", "and sang"), ("bob", "and sulked"), ("cyd", "and slept")):
        fair.hand_in(fair.team(handle), content=stories(word))
        fair.judge()
        with fair.store.read() as session:
            remembered = make_boards(session, fair.edition, kind="daily", side="public", memory=memory)
            assert remembered == make_boards(session, fair.edition, kind="daily", side="public")
    assert len(remembered[None].lines) == 3
