"""Archives of an edition: export, and import into another database."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import select

from smalltale.errors import SmalltaleError
from smalltale.server.database.models import Person, Submission
from smalltale.server.exchange.archive_export import export_edition
from smalltale.server.exchange.archive_import import import_archive
from smalltale.server.leaderboard.leaderboard import LeaderboardRow, build_leaderboards

from .conftest import Hackathon, create_hackathon, submission_csv


def leaderboard_rows(hackathon: Hackathon) -> list[LeaderboardRow]:
    with hackathon.database.read() as session:
        return build_leaderboards(session, hackathon.edition, kind="daily", side="all")[None].rows


def test_an_exported_edition_is_imported_with_its_scores(hackathon: Hackathon, tmp_path: Path) -> None:
    hackathon.submit(hackathon.add_team("ada", name="Two Foxes"))
    hackathon.submit(hackathon.add_team("bob"), content=submission_csv("and sang"))
    hackathon.run_worker()
    assert export_edition(hackathon.database, "first", tmp_path / "event") == 2
    entry = json.loads((tmp_path / "event" / "metadata.json").read_text())[0]
    assert entry["file"] == "submissions/ada/Two-Foxes_2026-03-03_12-00-00.csv"
    (tmp_path / "event" / "submissions" / "bob" / "broken_2026-03-03_12-00-00.csv").write_text(
        "prompt,completion\na,b\n"
    )
    target = create_hackathon(f"sqlite:///{tmp_path / 'target.db'}")
    for _ in range(2):
        imported, refusals = import_archive(target.database, target.edition, tmp_path / "event")
        assert (imported, len(refusals)) == (2, 1)
    original, imported_again = (
        [
            (row.standing.entry.name, row.standing.rank, row.standing.entry.mean)
            for row in leaderboard_rows(server)
        ]
        for server in (hackathon, target)
    )
    assert original == imported_again
    target.database.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": {"timestamp": "yesterday"}}, "'yesterday' is not a time"),
        ({"metadata": {"parameters": "many"}}, "parameters = 'many'; write a whole number"),
        ({"metadata": {"weight_class": "nano"}}, "unknown weight class 'nano'"),
        ({"metadata": {"kind": "weekly"}}, "the weekly prompts have not appeared yet"),
        ({"scores": "prompt,sample,judge,state\nnobody asked,0,a,ok\n"}, "line 2: KeyError"),
        ({"scores": "prompt,sample\nx,y\n"}, "line 2: ValueError"),
    ],
)
def test_a_broken_submission_of_an_archive_is_skipped_and_reported(
    tmp_path: Path, change: dict[str, dict[str, str] | str], message: str
) -> None:
    hackathon = create_hackathon(f"sqlite:///{tmp_path / 'a.db'}")
    hackathon.submit(hackathon.add_team("ada"))
    hackathon.submit(hackathon.add_team("bob"), content=submission_csv("and sang"))
    hackathon.run_worker()
    export_edition(hackathon.database, "first", tmp_path / "event")
    hackathon.database.close()
    metadata_path = tmp_path / "event" / "metadata.json"
    entries = json.loads(metadata_path.read_text())
    entries[0] |= change.get("metadata", {})
    metadata_path.write_text(json.dumps(entries))
    if "scores" in change:
        next((tmp_path / "event" / "scores" / "ada").iterdir()).write_text(str(change["scores"]))
    target = create_hackathon(f"sqlite:///{tmp_path / 'target.db'}")
    imported, refusals = import_archive(target.database, target.edition, tmp_path / "event")
    assert (imported, len(refusals)) == (1, 1)
    assert message in refusals[0]
    metadata_path.write_text("{}")
    with pytest.raises(SmalltaleError, match="not a list"):
        import_archive(target.database, target.edition, tmp_path / "event")
    target.database.close()


def test_a_writer_of_an_archive_does_not_become_an_account_that_can_sign_in(
    hackathon: Hackathon, tmp_path: Path
) -> None:
    hackathon.submit(hackathon.add_team("ada", name="Two Foxes"))
    hackathon.run_worker()
    export_edition(hackathon.database, "first", tmp_path / "event")
    target = create_hackathon(f"sqlite:///{tmp_path / 'target.db'}")
    target.add_person("ada", admin=True)
    for _ in range(2):
        assert import_archive(target.database, target.edition, tmp_path / "event") == (1, [])
    with target.database.read() as session:
        handles = session.scalars(
            select(Person.handle).join(Submission, Submission.person_id == Person.id).where(~Person.admin)
        ).all()
    assert handles == ["ada-old"]
    target.database.close()
