"""The database, opened: SQLite (WAL) or PostgreSQL by URL, brought up to date, with the audit log.

In: a URL. Out: a Store whose `write()` is one transaction.
Beware: on SQLite a write takes the one writer's lock at its start (BEGIN IMMEDIATE), so that no upgrade can deadlock.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event, insert, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from smalltale.errors import SmalltaleError, first_line
from smalltale.server.database.models import Audit, Base, Setting

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_SECONDS = 30
AUDIT_LOCK = 7_305_401
"""PostgreSQL advisory lock under which the audit chain grows."""


class Database:
    """One open database. Cheap to keep, safe to share between threads."""

    def __init__(self, url: str, *, clock: Callable[[], datetime] | None = None, pool_size: int = 10) -> None:
        self.url = parse_url(url)
        self.engine = open_engine(self.url, pool_size)
        self.now = clock or (utc_now if self.is_sqlite else DatabaseClock(self.engine))
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)
        # Looking needs no transaction on PostgreSQL; without one each page saves two round trips.
        looking = (
            self.engine if self.is_sqlite else self.engine.execution_options(isolation_level="AUTOCOMMIT")
        )
        self._readers = sessionmaker(looking, expire_on_commit=False)

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """A session for looking; nothing is committed."""
        with self._readers() as session:
            yield session

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction: committed where the block ends well, else undone."""
        with self._sessions() as session, session.begin():
            if self.is_sqlite:
                session.connection(execution_options={"smalltale_immediate": True})
            yield session

    def migrate(self) -> None:
        """Bring the tables up to date, one process at a time. Raises SmalltaleError where the database cannot be reached."""
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        try:
            with self.engine.connect().execution_options(smalltale_immediate=True) as connection:
                if not self.is_sqlite:
                    connection.execute(text(f"SELECT pg_advisory_xact_lock({AUDIT_LOCK + 1})"))
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                if connection.scalar(select(Setting.value).where(Setting.name == "secret")) is None:
                    connection.execute(insert(Setting).values(name="secret", value=secrets.token_hex(32)))
                connection.commit()
        except OperationalError as error:
            found = first_line(error.orig or error)
            raise SmalltaleError(
                f"the database {self.url.render_as_string()} cannot be opened ({found}); check the URL and that its server runs"
            ) from error

    def secret(self) -> bytes:
        """The key that signs forms, shared by every process on this database."""
        with self.read() as session:
            return bytes.fromhex(session.scalars(select(Setting.value).where(Setting.name == "secret")).one())

    def close(self) -> None:
        self.engine.dispose()


def utc_now() -> datetime:
    """This machine's clock."""
    return datetime.now(UTC)


class DatabaseClock:
    """The database's clock, known by its distance from ours, which is measured now and then.

    So machines whose clocks differ agree on leases and deadlines.
    """

    EVERY_SECONDS = 60.0

    def __init__(self, engine: Engine, own: Callable[[], datetime] = utc_now) -> None:
        self.engine, self.own = engine, own
        self.ahead, self.measured = timedelta(0), -math.inf

    def __call__(self) -> datetime:
        if time.monotonic() - self.measured > self.EVERY_SECONDS:
            # Set first, so that of many threads one measures and the others go by what is known.
            self.measured = time.monotonic()
            with contextlib.suppress(OperationalError, PoolTimeout), self.engine.connect() as connection:
                before = self.own()
                told: datetime = connection.scalars(text("SELECT clock_timestamp()")).one()
                self.ahead = told - before - (self.own() - before) / 2
        return self.own() + self.ahead


def parse_url(url: str) -> URL:
    """The URL with our drivers. Raises SmalltaleError for another database."""
    try:
        made = make_url(url if "://" in url else f"sqlite:///{url}")
    except ArgumentError as error:
        raise SmalltaleError(
            f"{url!r} is not a database URL; give sqlite:///FILE or postgresql://USER@HOST/NAME"
        ) from error
    match made.get_backend_name():
        case "sqlite":
            return made
        case "postgresql":
            return made.set(drivername="postgresql+psycopg")
    raise SmalltaleError(
        f"{made.get_backend_name()} is not supported; give sqlite:///FILE or postgresql://USER@HOST/NAME"
    )


def open_engine(url: URL, pool_size: int) -> Engine:
    """An engine with our settings for the kind of database. Its errors name no values: they stand in logs."""
    if url.get_backend_name() == "postgresql":
        return create_engine(
            url,
            pool_size=pool_size,
            max_overflow=pool_size,
            hide_parameters=True,
            connect_args={"connect_timeout": 10},
        )
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=pool_size,
        hide_parameters=True,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def settings(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (
            "journal_mode=WAL",
            # Each commit reaches the disk: what was accepted outlives a power cut, too.
            "synchronous=FULL",
            "foreign_keys=ON",
            "cache_size=-65536",
            f"busy_timeout={BUSY_SECONDS * 1000}",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("smalltale_immediate")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def insert_for(session: Session, model: type[Base]) -> Any:
    """The dialect's own INSERT, which has on_conflict_do_nothing and on_conflict_do_update."""
    dialect: Any = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    return dialect.insert(model)


def append_audit(
    session: Session, at: datetime, actor: str, action: str, subject: str, **detail: Any
) -> None:
    """Add a row to the append-only log, in the caller's transaction."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text(f"SELECT pg_advisory_xact_lock({AUDIT_LOCK})"))
    last = session.scalar(select(Audit.hash).order_by(Audit.id.desc()).limit(1)) or ""
    row = Audit(at=at, actor=actor, action=action, subject=subject, detail=detail, hash="")
    row.hash = audit_hash(last, row)
    session.add(row)
    session.flush()


def audit_hash(last: str, row: Audit) -> str:
    """The hash of a row over its content and the row before."""
    content = json.dumps(
        [last, row.at.isoformat(), row.actor, row.action, row.subject, row.detail], sort_keys=True
    )
    return hashlib.sha256(content.encode()).hexdigest()


def find_broken_audit_row(session: Session) -> int | None:
    """The id of the first row whose hash does not follow from the one before, None where the chain is whole."""
    last = ""
    for row in session.scalars(select(Audit).order_by(Audit.id)):
        if row.hash != audit_hash(last, row):
            return row.id
        last = row.hash
    return None
