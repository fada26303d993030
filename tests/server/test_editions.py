"""Edition files: reading, checking and importing them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from smalltale.errors import SmalltaleError
from smalltale.server.database.models import Edition, PromptSet
from smalltale.server.database.session import Database
from smalltale.server.demo import create_demo_edition
from smalltale.server.editions.editions import import_edition, read_edition
from smalltale.server.editions.validate import check_edition
from smalltale.server.leaderboard.leaderboard import build_leaderboards

from .conftest import Hackathon

NOW = datetime(2026, 1, 1, tzinfo=UTC)

SCRIPT_WARNING = "the judge scripted-a is a script for demonstrations; it does not read the stories"


def write_edition(folder: Path, *, final: list[str] | None = None) -> Path:
    """Write an edition's files. Returns the path of its TOML file."""
    subjects = (
        "a cat", "the old king", "two brave brothers", "my grandmother", "one rainy day", "a tiny dragon",
        "the clock", "under the bed", "far away", "a red balloon", "five ducks", "the last leaf",
    )  # fmt: skip
    daily = [f"Once there was {subject}, and then" for subject in subjects]
    final = final or [f"No one knew why {subject} sang so loudly" for subject in subjects]
    for kind, prompts in (("daily", daily), ("final", final)):
        lines = "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts)
        (folder / f"{kind}.jsonl").write_text(lines, encoding="utf-8")
    path = folder / "edition.toml"
    path.write_text(
        """start = 2026-03-01
end = 2026-04-07
[edition]
slug = "spring"
title = "Spring"
judges = ["scripted-a"]
[[prompt_set]]
kind = "daily"
file = "daily.jsonl"
public_share = 0.5
[[prompt_set]]
kind = "final"
file = "final.jsonl"
appears = 2026-04-05T00:00:00-12:00
""",
        encoding="utf-8",
    )
    return path


def test_a_valid_edition_has_no_issues_and_is_imported_once(tmp_path: Path) -> None:
    draft = read_edition(write_edition(tmp_path))
    assert [issue.text for issue in check_edition(draft, NOW)] == [SCRIPT_WARNING]
    database = Database(f"sqlite:///{tmp_path / 'a.db'}")
    database.migrate()
    first, second = import_edition(database, draft), import_edition(database, draft)
    assert (first.id, second.revision) == (second.id, first.revision + 1)
    with database.read() as session:
        public = {
            prompt_set.kind: [prompt.public for prompt in prompt_set.prompts]
            for prompt_set in session.scalars(select(PromptSet))
        }
    assert public == {"daily": [False, True] * 6, "final": [True] * 12}
    database.close()


def test_prompts_that_leak_from_one_set_to_another_are_reported(tmp_path: Path) -> None:
    path = write_edition(
        tmp_path,
        final=["Once there was  A CAT, and then", "Something entirely different happened"]
        + [f"Line number {i} of it" for i in range(9)],
    )
    errors = [issue.text for issue in check_edition(read_edition(path), NOW) if issue.error]
    assert errors == ["final prompt 1 leaks: it is nearly or exactly daily prompt 1; write another"]


def test_prompts_in_a_training_text_are_reported(tmp_path: Path) -> None:
    draft = read_edition(write_edition(tmp_path))
    issues = check_edition(draft, NOW, ["… and No one knew why the clock sang so loudly, said Tom."])
    assert [(issue.error, issue.text) for issue in issues] == [
        (True, "final prompt 7 is in a training text word for word; write another"),
        (False, SCRIPT_WARNING),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[edition]\nslug = 'a b'", "use 1 to 64 letters, digits and -"),
        ("[edition]\npanel = 'my panel'", "letters, digits, dots and dashes"),
        ("[edition]\ntitle = ' '", "title has 0 characters"),
        ("[edition]\njugdes = []", "unknown key 'jugdes'"),
        ("[[prompt_set]]\nkind = 'weekly'", "must be one of: practice, daily, final"),
        ("[[prompt_set]]\nkind = 'daily'", "names no file"),
        ("[[prompt_set]]\nkind = 'daily'\nfile = 'x.csv'\nappears = 2026-01-01T00:00:00", "has no zone"),
        ("[[prompt_set]]\nkind = 'daily'\nfile = 'x.csv'\npublic_share = 2", "from 0 to 1"),
        ("[[prompt_set]]\nkind = 'daily'\nfile = 'missing.csv'", "does not exist"),
    ],
)
def test_a_broken_edition_file_is_reported_with_the_fix(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "e.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SmalltaleError, match=message):
        read_edition(path)


def test_the_deadline_follows_the_servers_clock_and_not_the_visitors(hackathon: Hackathon) -> None:
    hackathon.clock.now = hackathon.edition.ends - timedelta(seconds=1)
    text = hackathon.client().get("/", headers={"date": "Thu, 01 Jan 2099 00:00:00 GMT"}).text
    assert (
        f'data-end="{int(hackathon.edition.ends.timestamp())}" data-now="{int(hackathon.clock.now.timestamp())}"'
        in text
    )


def test_the_demonstration_is_created_once_and_every_class_has_a_leader(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'demo.db'}")
    database.migrate()
    create_demo_edition(database)
    create_demo_edition(database)
    with database.read() as session:
        edition = session.scalars(select(Edition)).one()
        for name in ("small", "medium", "large"):
            leaderboard = build_leaderboards(session, edition, kind="daily", side="public")[name]
            assert leaderboard.rows[0].standing.rank == 1
    database.close()
