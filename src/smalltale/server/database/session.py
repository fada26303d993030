"""Opens a SQLite (WAL) or PostgreSQL database by URL, migrates it, and appends to the audit log.

Input: a URL. Output: a Database whose `write()` is one transaction.
Note: on SQLite a write transaction takes the write lock at its start (BEGIN IMMEDIATE): a lock taken later, by the upgrade of
a read transaction, could deadlock.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
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
"""Number of the PostgreSQL advisory lock for appends to the audit log; the next number is the lock for migrations."""

AUDIT_TRANSLATIONS = {
    "account made": "account created",
    "team made": "team created",
    "token made": "token created",
    "handed in": "submitted",
    "hand-in loaded": "submission imported",
    "model asked for": "model requested",
    "model sent": "model uploaded",
}


class Database:
    """An open database, safe to share between threads."""

    def __init__(self, url: str, *, clock: Callable[[], datetime] | None = None, pool_size: int = 10) -> None:
        self.url = parse_url(url)
        self.engine = open_engine(self.url, pool_size)
        self.now = clock or (utc_now if self.is_sqlite else DatabaseClock(self.engine))
        self.open_writer = sessionmaker(self.engine, expire_on_commit=False)
        # On PostgreSQL reading needs no transaction; without one each page saves two round trips.
        options = {} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"}
        self.open_reader = sessionmaker(self.engine.execution_options(**options), expire_on_commit=False)

    @property
    def is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """A session for reading; nothing is committed."""
        with self.open_reader() as session:
            yield session

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction: committed when the block ends, rolled back if it raises."""
        with self.open_writer() as session, session.begin():
            if self.is_sqlite:
                session.connection(execution_options={"smalltale_immediate": True})
            yield session

    def migrate(self) -> None:
        """Update the tables, one process at a time. Raises SmalltaleError if the database cannot be opened."""
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
            raise SmalltaleError(
                f"the database {self.url.render_as_string()} cannot be opened ({first_line(error.orig or error)}); "
                "check the URL and that its server runs"
            ) from error

    def secret(self) -> bytes:
        """The key that signs forms, shared by all processes on this database."""
        with self.read() as session:
            return bytes.fromhex(session.scalars(select(Setting.value).where(Setting.name == "secret")).one())

    def close(self) -> None:
        self.engine.dispose()


def utc_now() -> datetime:
    return datetime.now(UTC)


class DatabaseClock:
    """The database's time, so that machines whose clocks differ agree on leases and deadlines.

    It is the local clock plus its offset from the database's, which is measured once per minute.
    """

    MEASURE_EVERY_SECONDS = 60.0

    def __init__(self, engine: Engine, local_clock: Callable[[], datetime] = utc_now) -> None:
        self.engine, self.local_clock = engine, local_clock
        self.offset, self.measured_at = timedelta(0), -math.inf

    def __call__(self) -> datetime:
        if time.monotonic() - self.measured_at > self.MEASURE_EVERY_SECONDS:
            # Set first, so that one thread measures and the others use the previous offset.
            self.measured_at = time.monotonic()
            with contextlib.suppress(OperationalError, PoolTimeout), self.engine.connect() as connection:
                before = self.local_clock()
                remote: datetime = connection.scalars(text("SELECT clock_timestamp()")).one()
                self.offset = remote - before - (self.local_clock() - before) / 2
        return self.local_clock() + self.offset


def parse_url(url: str) -> URL:
    """The URL with the psycopg driver for PostgreSQL. Raises SmalltaleError for another kind of database."""
    fix = "use sqlite:///FILE or postgresql://USER@HOST/NAME"
    try:
        parsed = make_url(url if "://" in url else f"sqlite:///{url}")
    except ArgumentError as error:
        raise SmalltaleError(f"{url!r} is not a database URL; {fix}") from error
    match parsed.get_backend_name():
        case "sqlite":
            return parsed
        case "postgresql":
            return parsed.set(drivername="postgresql+psycopg")
        case backend:
            raise SmalltaleError(f"{backend} is not supported; {fix}")


def open_engine(url: URL, pool_size: int) -> Engine:
    """An engine whose errors contain no values, because they are logged; on SQLite with WAL and immediate write locks."""
    is_sqlite = url.get_backend_name() == "sqlite"
    sqlite_arguments = {"timeout": BUSY_SECONDS, "check_same_thread": False}
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=pool_size,
        hide_parameters=True,
        connect_args=sqlite_arguments if is_sqlite else {"connect_timeout": 10},
    )
    if not is_sqlite:
        return engine

    @event.listens_for(engine, "connect")
    def apply_settings(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (
            "journal_mode=WAL",
            # Each commit reaches the disk, so that an accepted submission survives a power cut.
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
    """The INSERT of the session's dialect: SQLAlchemy's generic one lacks on_conflict_do_nothing and on_conflict_do_update."""
    dialect: Any = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    return dialect.insert(model)


def append_audit(
    session: Session, at: datetime, actor: str, action: str, subject: str, **detail: Any
) -> None:
    """Append a row to the audit log, in the caller's transaction."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text(f"SELECT pg_advisory_xact_lock({AUDIT_LOCK})"))
    last_hash = session.scalar(select(Audit.hash).order_by(Audit.id.desc()).limit(1)) or ""
    row = Audit(at=at, actor=actor, action=action, subject=subject, detail=detail, hash="")
    row.hash = hash_audit_row(last_hash, row)
    session.add(row)
    session.flush()


def translate_audit(stored: str) -> str:
    """An action or a subject of the audit log in current terms. Rows are append-only, so the stored terms stay as they are."""
    return AUDIT_TRANSLATIONS.get(stored) or re.sub(r"^hand-in (?=\d+$)", "submission ", stored)


def hash_audit_row(last_hash: str, row: Audit) -> str:
    """SHA-256 of the previous row's hash and this row's content."""
    content = json.dumps(
        [last_hash, row.at.isoformat(), row.actor, row.action, row.subject, row.detail], sort_keys=True
    )
    return hashlib.sha256(content.encode()).hexdigest()


def find_broken_audit_row(session: Session) -> int | None:
    """The id of the first row whose hash does not match its content and the row before; None if the chain is intact."""
    last_hash = ""
    for row in session.scalars(select(Audit).order_by(Audit.id)):
        if row.hash != hash_audit_row(last_hash, row):
            return row.id
        last_hash = row.hash
    return None
