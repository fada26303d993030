"""Backup and restore of the whole database, by one command each, while the server runs.

In: a database and a file. Out: the file, or the database as it was.
Beware: restore never overwrites: the SQLite file must not exist yet, the PostgreSQL database must be empty.
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

from sqlalchemy import inspect
from sqlalchemy.engine import URL

from smalltale.errors import FileProblem, SmalltaleError
from smalltale.files import atomic_file, translate_os_errors
from smalltale.server.database.session import Database, parse_url


def backup(database: Database, out: Path) -> None:
    """Write a consistent copy: a SQLite file, or pg_dump's own form."""
    if out.exists():
        raise FileProblem(f"{out} exists; choose another name, backups are never overwritten")
    with atomic_file(out) as temporary:
        if not database.is_sqlite:
            run_postgres("pg_dump", database.url, ["--format=custom", f"--file={temporary}"])
            return
        with (
            closing(sqlite3.connect(str(database.url.database))) as source,
            closing(sqlite3.connect(temporary)) as target,
        ):
            source.backup(target)
            target.execute("PRAGMA journal_mode=DELETE")


def restore(source: Path, database_url: str) -> None:
    """Fill an empty database from a backup. Raises SmalltaleError where there is something in it."""
    url = parse_url(database_url)
    with translate_os_errors(source), source.open("rb") as opened:
        head = opened.read(16)
    if url.get_backend_name() == "postgresql":
        if not head.startswith(b"PGDMP"):
            raise FileProblem(
                f"{source} is no backup of a PostgreSQL database; restore it to the kind it came from"
            )
        database = Database(database_url)
        tables = inspect(database.engine).get_table_names()
        database.close()
        if tables:
            raise SmalltaleError(f"the database has {len(tables)} tables; restore into an empty one")
        run_postgres(
            "pg_restore", url, ["--no-owner", "--exit-on-error", "--single-transaction", str(source)]
        )
        return
    if not head.startswith(b"SQLite format 3\x00"):
        raise FileProblem(f"{source} is no backup of a SQLite database; restore it to the kind it came from")
    with closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as opened_backup:
        try:
            found = opened_backup.execute("PRAGMA integrity_check").fetchone()[0]
        except sqlite3.DatabaseError as error:
            found = str(error)
    if found != "ok":
        raise FileProblem(f"{source} is damaged ({found}); take an earlier backup")
    target = Path(str(url.database))
    if target.exists():
        raise SmalltaleError(f"{target} exists; move it away first, restore never overwrites")
    with atomic_file(target) as temporary:
        shutil.copyfile(source, temporary)


def run_postgres(tool: str, url: URL, arguments: list[str]) -> None:
    """Run one of PostgreSQL's own tools; the password goes by the environment, never by the command line."""
    found = shutil.which(tool)
    if found is None:
        raise SmalltaleError(
            f"{tool} is not installed; install PostgreSQL's client tools (apt-get install postgresql-client)"
        )
    address = url.set(drivername="postgresql", password=None).render_as_string()
    environment = {"PGPASSWORD": url.password} if url.password else {}
    done = subprocess.run(
        [found, "--no-password", f"--dbname={address}", *arguments],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", **environment},
    )
    if done.returncode:
        raise SmalltaleError(
            f"{tool} failed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}; mend that and try again"
        )
