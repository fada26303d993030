"""The database: migrations, backup and restore, its clock, and clear errors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import func, select

from smalltale.errors import SmalltaleError
from smalltale.server.database.backup import backup, restore
from smalltale.server.database.models import Base, JudgementRow
from smalltale.server.database.session import Database, DatabaseClock

from .conftest import Hackathon, create_hackathon


def test_the_migrations_create_the_tables_of_the_models(hackathon: Hackathon) -> None:
    with hackathon.database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_a_backup_of_a_running_server_is_restored_completely(tmp_path: Path) -> None:
    hackathon = create_hackathon(f"sqlite:///{tmp_path / 'a.db'}")
    hackathon.submit(hackathon.add_team("ada"))
    hackathon.run_worker()
    backup(hackathon.database, tmp_path / "copy")
    hackathon.database.close()
    restore(tmp_path / "copy", f"sqlite:///{tmp_path / 'b.db'}")
    restored = Database(f"sqlite:///{tmp_path / 'b.db'}")
    restored.migrate()
    with restored.read() as session:
        assert session.scalar(select(func.count()).select_from(JudgementRow)) == 48
    restored.close()
    with pytest.raises(SmalltaleError, match="never overwrites"):
        restore(tmp_path / "copy", f"sqlite:///{tmp_path / 'b.db'}")
    (tmp_path / "bad").write_bytes((tmp_path / "copy").read_bytes()[:9000])
    with pytest.raises(SmalltaleError, match="is damaged"):
        restore(tmp_path / "bad", f"sqlite:///{tmp_path / 'c.db'}")


@pytest.mark.parametrize(
    ("url", "message"),
    [("mysql://x/y", "is not supported"), ("postgresql://missing@127.0.0.1:1/none", "cannot be opened")],
)
def test_an_unsupported_or_unreachable_database_is_one_clear_line(url: str, message: str) -> None:
    with pytest.raises(SmalltaleError, match=message):
        Database(url).migrate()


@pytest.mark.all
def test_machines_with_different_clocks_agree_on_the_databases_clock(postgres_url: str) -> None:
    database = Database(postgres_url)
    fast = DatabaseClock(database.engine, local_clock=lambda: datetime.now(UTC) + timedelta(hours=1))
    slow = DatabaseClock(database.engine, local_clock=lambda: datetime.now(UTC) - timedelta(minutes=5))
    assert abs(fast() - slow()) < timedelta(seconds=2)
    assert abs(fast() - database.now()) < timedelta(seconds=2)
    database.close()
    unreachable = DatabaseClock(Database("postgresql://missing@127.0.0.1:1/none").engine)
    assert abs(unreachable() - datetime.now(UTC)) < timedelta(seconds=2)
