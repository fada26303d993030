"""An organiser's tools: edition files, checks, backup and restore, events out and in, the contestant's client."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import uvicorn
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import func, select

from smalltale.errors import SmalltaleError
from smalltale.server.accounts import accounts as people
from smalltale.server.client import address, call, declared_beside, keep_token, token_file, token_for
from smalltale.server.database.backup import backup, restore
from smalltale.server.database.models import Base, Edition, HandIn, Judgement, Person, PromptSet
from smalltale.server.database.session import DatabaseClock, Store
from smalltale.server.editions.editions import import_edition, read_edition
from smalltale.server.editions.validate import concerns
from smalltale.server.exchange.archive_export import export_event
from smalltale.server.exchange.archive_import import import_folder
from smalltale.server.leaderboard.leaderboard import make_board
from smalltale.server.web.app import create_app

from .conftest import Fair, make_fair, stories

NOW = datetime(2026, 1, 1, tzinfo=UTC)

SCRIPT = "the judge scripted-a is a script for demonstrations; it reads nothing"


def write_edition(folder: Path, *, final: list[str] | None = None, extra: str = "") -> Path:
    """An edition's files."""
    beginnings = (
        "a cat",
        "the old king",
        "two brave brothers",
        "my grandmother",
        "one rainy day",
        "a tiny dragon",
        "the clock",
        "under the bed",
        "far away",
        "a red balloon",
        "five ducks",
        "the last leaf",
    )
    daily = [f"Once there was {each}, and then" for each in beginnings]
    (folder / "daily.jsonl").write_text(
        "".join(json.dumps({"prompt": each}) + "\n" for each in daily), encoding="utf-8"
    )
    made = final or [f"Nobody knew why {each} sang so loudly" for each in beginnings]
    (folder / "final.jsonl").write_text(
        "".join(json.dumps({"prompt": each}) + "\n" for each in made), encoding="utf-8"
    )
    path = folder / "edition.toml"
    path.write_text(
        f"""start = 2026-03-01
end = 2026-04-07
{extra}
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


def test_a_sound_edition_raises_no_concern_and_is_imported_once(tmp_path: Path) -> None:
    draft = read_edition(write_edition(tmp_path))
    assert [each.text for each in concerns(draft, NOW)] == [SCRIPT]
    store = Store(f"sqlite:///{tmp_path / 'a.db'}")
    store.migrate()
    first, second = import_edition(store, draft), import_edition(store, draft)
    assert (first.id, second.revision) == (second.id, first.revision + 1)
    with store.read() as session:
        shown = {
            each.kind: [prompt.public for prompt in each.prompts]
            for each in session.scalars(select(PromptSet))
        }
    assert shown == {"daily": [False, True] * 6, "final": [True] * 12}
    store.close()


def test_prompts_that_leak_from_one_set_to_the_other_are_named(tmp_path: Path) -> None:
    path = write_edition(
        tmp_path,
        final=["Once there was  A CAT, and then", "Something wholly different happened"]
        + [f"Line number {i} of it" for i in range(9)],
    )
    found = [each.text for each in concerns(read_edition(path), NOW) if each.error]
    assert found == ["final prompt 1 leaks: it is daily prompt 1, or nearly; write another"]


def test_prompts_in_a_text_people_train_on_are_named(tmp_path: Path) -> None:
    draft = read_edition(write_edition(tmp_path))
    found = concerns(draft, NOW, ["… and Nobody knew why the clock sang so loudly, said Tom."])
    assert [(each.error, each.text) for each in found] == [
        (True, "final prompt 7 stands word for word in a text that people train on"),
        (False, SCRIPT),
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
def test_a_broken_edition_file_is_named_with_the_mend(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "e.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SmalltaleError, match=message):
        read_edition(path)


def test_the_migrations_make_the_tables_that_the_code_knows(fair: Fair) -> None:
    with fair.store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_a_backup_of_a_running_server_is_restored_whole(tmp_path: Path) -> None:
    fair = make_fair(f"sqlite:///{tmp_path / 'a.db'}")
    fair.hand_in(fair.team("ada"))
    fair.judge()
    backup(fair.store, tmp_path / "copy")
    fair.store.close()
    restore(tmp_path / "copy", f"sqlite:///{tmp_path / 'b.db'}")
    again = Store(f"sqlite:///{tmp_path / 'b.db'}")
    again.migrate()
    with again.read() as session:
        assert session.scalar(select(func.count()).select_from(Judgement)) == 48
    again.close()
    with pytest.raises(SmalltaleError, match="never overwrites"):
        restore(tmp_path / "copy", f"sqlite:///{tmp_path / 'b.db'}")
    (tmp_path / "bad").write_bytes((tmp_path / "copy").read_bytes()[:9000])
    with pytest.raises(SmalltaleError, match="is damaged"):
        restore(tmp_path / "bad", f"sqlite:///{tmp_path / 'c.db'}")


def test_an_event_goes_out_and_comes_in_again_with_its_scores(fair: Fair, tmp_path: Path) -> None:
    fair.hand_in(fair.team("ada", name="Two Foxes"))
    fair.hand_in(fair.team("bob"), content=stories("and sang"))
    fair.judge()
    assert export_event(fair.store, "first", tmp_path / "event") == 2
    entry = json.loads((tmp_path / "event" / "metadata.json").read_text())[0]
    assert entry["file"] == "submissions/ada/Two-Foxes_2026-03-03_12-00-00.csv"
    (tmp_path / "event" / "submissions" / "bob" / "broken_2026-03-03_12-00-00.csv").write_text(
        "prompt,completion\na,b\n"
    )
    other = make_fair(f"sqlite:///{tmp_path / 'other.db'}")
    for _ in range(2):
        taken, refused = import_folder(other.store, other.edition, tmp_path / "event")
        assert (taken, len(refused)) == (2, 1)
    boards = []
    for each in (fair, other):
        with each.store.read() as session:
            boards.append(make_board(session, each.edition, kind="daily", side="all", weight_class=None))
    assert [(line.team, line.standing.rank, line.standing.entry.mean) for line in boards[0].lines] == [
        (line.team, line.standing.rank, line.standing.entry.mean) for line in boards[1].lines
    ]
    other.store.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": {"timestamp": "yesterday"}}, "'yesterday' is no moment"),
        ({"metadata": {"parameters": "many"}}, "parameters = 'many'; write a whole number"),
        ({"metadata": {"weight_class": "nano"}}, "there is no weight class 'nano'"),
        ({"metadata": {"kind": "weekly"}}, "no such prompt set"),
        ({"scores": "prompt,sample,judge,state\nnobody asked,0,a,ok\n"}, "line 2: KeyError"),
        ({"scores": "prompt,sample\nx,y\n"}, "line 2: ValueError"),
    ],
)
def test_an_old_event_with_something_wrong_is_loaded_without_it_and_the_reason_is_told(
    tmp_path: Path, change: dict[str, dict[str, str] | str], message: str
) -> None:
    fair = make_fair(f"sqlite:///{tmp_path / 'a.db'}")
    fair.hand_in(fair.team("ada"))
    fair.hand_in(fair.team("bob"), content=stories("and sang"))
    fair.judge()
    export_event(fair.store, "first", tmp_path / "event")
    fair.store.close()
    place = tmp_path / "event" / "metadata.json"
    entries = json.loads(place.read_text())
    entries[0] |= change.get("metadata", {})
    place.write_text(json.dumps(entries))
    if "scores" in change:
        next((tmp_path / "event" / "scores" / "ada").iterdir()).write_text(str(change["scores"]))
    other = make_fair(f"sqlite:///{tmp_path / 'other.db'}")
    taken, refused = import_folder(other.store, other.edition, tmp_path / "event")
    assert (taken, len(refused)) == (1, 1)
    assert message in refused[0]
    place.write_text("{}")
    with pytest.raises(SmalltaleError, match="not a list"):
        import_folder(other.store, other.edition, tmp_path / "event")
    other.store.close()


def test_an_old_events_writer_is_not_taken_for_somebody_who_can_sign_in(fair: Fair, tmp_path: Path) -> None:
    fair.hand_in(fair.team("ada", name="Two Foxes"))
    fair.judge()
    export_event(fair.store, "first", tmp_path / "event")
    other = make_fair(f"sqlite:///{tmp_path / 'other.db'}")
    other.person("ada", admin=True)
    for _ in range(2):
        assert import_folder(other.store, other.edition, tmp_path / "event") == (1, [])
    with other.store.read() as session:
        names = session.scalars(
            select(Person.handle).join(HandIn, HandIn.person_id == Person.id).where(~Person.admin)
        ).all()
    assert names == ["ada-old"]
    other.store.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [("mysql://x/y", "is not supported"), ("postgresql://nobody@127.0.0.1:1/none", "cannot be opened")],
)
def test_another_database_or_one_that_is_down_is_one_clear_line(url: str, message: str) -> None:
    with pytest.raises(SmalltaleError, match=message):
        Store(url).migrate()


@pytest.fixture
def address_of(fair: Fair) -> Iterator[str]:
    """A real server on a free port."""
    server = uvicorn.Server(uvicorn.Config(create_app(fair.store), port=0, log_level="critical", ws="none"))
    running = threading.Thread(target=server.run)
    running.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    running.join()


def test_a_file_is_handed_in_by_the_client_and_its_errors_come_back_whole(
    fair: Fair, address_of: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("SMALLTALE_TOKEN", raising=False)
    person: Person = fair.team("ada")
    with pytest.raises(SmalltaleError, match="smalltale login"):
        token_for(address_of)
    keep_token(address_of, people.make_token(fair.store, person, "test", ["hand-in"]))
    assert token_file().stat().st_mode & 0o077 == 0
    path = tmp_path / "stories.csv"
    path.write_bytes(b"prompt,completion\na,b\n")
    declared = {
        "team": "x",
        "weight_class": "small",
        "counted_parameters": 1000,
        "model_hash": "aa" * 32,
        "data": ["TinyStories"],
        "from_scratch": True,
    }
    (tmp_path / "submission.json").write_text(json.dumps(declared))
    fields = declared_beside(path)
    with pytest.raises(SmalltaleError, match="every prompt needs 4") as caught:
        call(address_of, "/editions/first/hand-ins/daily", token=token_for(address_of), form=(fields, path))
    assert str(caught.value).count("file:") == 7
    path.write_bytes(stories())
    assert (
        call(address_of, "/editions/first/hand-ins/daily", token=token_for(address_of), form=(fields, path))[
            "state"
        ]
        == "queued"
    )


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://far.example", "unencrypted"),
        ("ftp://x", "no server's address"),
        ("far", "no server's address"),
    ],
)
def test_a_token_is_never_sent_in_the_clear(url: str, message: str) -> None:
    with pytest.raises(SmalltaleError, match=message):
        address(url)


@pytest.mark.all
def test_machines_whose_clocks_differ_agree_by_the_databases(postgres_url: str) -> None:
    store = Store(postgres_url)
    wrong = DatabaseClock(store.engine, own=lambda: datetime.now(UTC) + timedelta(hours=1))
    slow = DatabaseClock(store.engine, own=lambda: datetime.now(UTC) - timedelta(minutes=5))
    assert abs(wrong() - slow()) < timedelta(seconds=2)
    assert abs(wrong() - store.now()) < timedelta(seconds=2)
    store.close()
    down = DatabaseClock(Store("postgresql://nobody@127.0.0.1:1/none").engine)
    assert abs(down() - datetime.now(UTC)) < timedelta(seconds=2)


def test_a_deadline_is_kept_by_the_servers_clock_and_not_the_visitors(fair: Fair) -> None:
    fair.clock.now = fair.edition.ends - timedelta(seconds=1)
    text = fair.client().get("/", headers={"date": "Thu, 01 Jan 2099 00:00:00 GMT"}).text
    assert (
        f'data-end="{int(fair.edition.ends.timestamp())}" data-now="{int(fair.clock.now.timestamp())}"'
        in text
    )


def test_the_demonstration_fills_itself_once_and_every_class_has_a_leader(tmp_path: Path) -> None:
    from smalltale.server.demo import fill

    store = Store(f"sqlite:///{tmp_path / 'demo.db'}")
    store.migrate()
    fill(store)
    fill(store)
    with store.read() as session:
        edition = session.scalars(select(Edition)).one()
        for name in ("small", "medium", "large"):
            assert (
                make_board(session, edition, kind="daily", side="public", weight_class=name)
                .lines[0]
                .standing.rank
                == 1
            )
    store.close()


def test_the_verbs_have_help_without_importing_torch() -> None:
    code = "import smalltale.cli.hackathon, smalltale.cli.serve, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code]).returncode == 0
