"""Judgements folders ranked by command; leaderboards built from the database, and their cache."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
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
from smalltale.server.database.models import Edition
from smalltale.server.leaderboard.cache import CachedLeaderboards, Key, LeaderboardCache
from smalltale.server.leaderboard.leaderboard import build_leaderboards
from smalltale.submission import Completion, write_submission

from .conftest import Hackathon, submission_csv

QUALIFIED = Calibration(
    judge="scripted", endpoint="scripted:", rubric_hash="", mean=5.5, sd=2.0, weight=1.0, qualified=True
)


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """A judgements folder, as `smalltale judge run` writes it."""
    rows = [
        Completion(f"Prompt {prompt}, and", f"then {sample} cats came to number {prompt}.")
        for prompt in range(3)
        for sample in range(4)
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
    assert entry.can_rank
    assert set(entry.criteria) == {"grammar", "creativity", "consistency", "plot"}


def test_the_command_ranks_folders_as_a_table_and_as_json(judged: Path) -> None:
    app = typer.Typer()
    leaderboard.add_to(app)

    def standings_of(weight_class: str) -> list[tuple[int, str]]:
        run = CliRunner().invoke(app, [str(judged), "--json", "--class", weight_class])
        assert run.exit_code == 0
        return [(standing["rank"], standing["entry"]) for standing in json.loads(run.stdout)["standings"]]

    assert standings_of("small") == [(1, "Two Foxes")]
    assert standings_of("large") == []
    assert "Leaderboard" in CliRunner().invoke(app, [str(judged)]).stdout


def test_another_folder_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text('{"kind": "corpus"}')
    with pytest.raises(SmalltaleError, match="not a judgements folder"):
        read_entry(tmp_path)


def test_a_leaderboard_has_each_teams_best_submission_in_its_class_and_over_all(hackathon: Hackathon) -> None:
    ada = hackathon.add_team("ada")
    hackathon.submit(ada, weight_class="large")
    hackathon.run_worker()
    hackathon.clock.advance(days=1)
    hackathon.submit(ada, content=submission_csv("and sang"))
    hackathon.submit(hackathon.add_team("bob"), content=submission_csv("and slept"))
    hackathon.run_worker()
    with hackathon.database.read() as session:
        leaderboards = build_leaderboards(session, hackathon.edition, kind="daily", side="public")
    counts = {
        weight_class: {row.standing.entry.name: row.submission_count for row in leaderboard.rows}
        for weight_class, leaderboard in leaderboards.items()
    }
    assert counts == {
        None: {"Team ada": 2, "Team bob": 1},
        "small": {"Team ada": 1, "Team bob": 1},
        "large": {"Team ada": 1},
    }
    means = {
        weight_class: [
            row.standing.entry.mean for row in leaderboard.rows if row.standing.entry.name == "Team ada"
        ]
        for weight_class, leaderboard in leaderboards.items()
    }
    assert means[None] == [max(*means["small"], *means["large"])]


def test_a_cached_leaderboard_shows_a_new_submission_once_it_is_outdated(hackathon: Hackathon) -> None:
    cache = LeaderboardCache(hackathon.database)
    assert cache.get(hackathon.edition).rows == []
    hackathon.submit(hackathon.add_team("ada"))
    hackathon.run_worker()
    with hackathon.database.read() as session:
        edition = session.get_one(Edition, hackathon.edition.id)
    assert cache.get(edition).rows == []
    cache.FRESH_SECONDS = cache.MAX_AGE_SECONDS = 0.0
    assert [row.standing.entry.name for row in cache.get(edition).rows] == ["Team ada"]
    assert [row.standing.entry.name for row in cache.get(edition, weight_class="small").rows] == ["Team ada"]
    assert cache.get(edition, weight_class="large").rows == []


class SlowCache(LeaderboardCache):
    """Counts its builds, each of which takes 50 ms."""

    builds = 0

    def build(self, key: Key) -> CachedLeaderboards:
        time.sleep(0.05)
        self.builds += 1
        return super().build(key)


def test_simultaneous_requests_build_a_leaderboard_once(hackathon: Hackathon) -> None:
    cache = SlowCache(hackathon.database)
    with ThreadPoolExecutor(8) as executor:
        revisions = [executor.submit(cache.get, hackathon.edition) for _ in range(8)]
    assert {revision.result().revision for revision in revisions} == {hackathon.edition.revision}
    assert cache.builds == 1


def test_an_outdated_leaderboard_is_served_while_one_thread_rebuilds_it(hackathon: Hackathon) -> None:
    cache = SlowCache(hackathon.database)
    outdated = cache.get(hackathon.edition)
    with hackathon.database.write() as session:
        edition = session.get_one(Edition, hackathon.edition.id)
        edition.revision += 1
    cache.FRESH_SECONDS = 0.0
    assert all(cache.get(edition) is outdated for _ in range(8))
    cache.executor.shutdown()
    assert cache.builds == 2
    assert cache.get(edition).revision == edition.revision
