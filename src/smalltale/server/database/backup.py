"""Copies the complete database to a file while the server runs, and restores it.

Note: restore never overwrites: the SQLite file must not exist, the PostgreSQL database must be empty.
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
    """Write a consistent copy: a SQLite file, or pg_dump's custom format. Raises FileProblem if `out` exists."""
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
    """Fill an empty database from a backup. Raises SmalltaleError if the database is not empty or the backup is damaged."""
    url = parse_url(database_url)
    is_postgres = url.get_backend_name() == "postgresql"
    kind, first_bytes = ("PostgreSQL", b"PGDMP") if is_postgres else ("SQLite", b"SQLite format 3\x00")
    with translate_os_errors(source), source.open("rb") as file:
        if file.read(len(first_bytes)) != first_bytes:
            raise FileProblem(
                f"{source} is not a backup of a {kind} database; restore it to the kind of database that it was made from"
            )
    if is_postgres:
        database = Database(database_url)
        tables = inspect(database.engine).get_table_names()
        database.close()
        if tables:
            raise SmalltaleError(f"the database has {len(tables)} tables; restore into an empty one")
        options = ["--no-owner", "--exit-on-error", "--single-transaction"]
        run_postgres("pg_restore", url, [*options, str(source)])
        return
    with closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as connection:
        try:
            integrity = connection.execute("PRAGMA integrity_check").fetchone()[0]
        except sqlite3.DatabaseError as error:
            integrity = str(error)
    if integrity != "ok":
        raise FileProblem(f"{source} is damaged ({integrity}); use an earlier backup")
    target = Path(str(url.database))
    if target.exists():
        raise SmalltaleError(f"{target} exists; move it away first, restore never overwrites")
    with atomic_file(target) as temporary:
        shutil.copyfile(source, temporary)


def run_postgres(tool: str, url: URL, arguments: list[str]) -> None:
    """Run a client tool of PostgreSQL. The password is passed in the environment: command lines are visible to all users."""
    tool_path = shutil.which(tool)
    if tool_path is None:
        raise SmalltaleError(
            f"{tool} is not installed; install PostgreSQL's client tools (apt-get install postgresql-client)"
        )
    url_without_password = url.set(drivername="postgresql", password=None).render_as_string()
    environment = {"PGPASSWORD": url.password} if url.password else {}
    process = subprocess.run(
        [tool_path, "--no-password", f"--dbname={url_without_password}", *arguments],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", **environment},
    )
    if process.returncode:
        last_line = (process.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise SmalltaleError(f"{tool} failed: {last_line}; fix that and try again")
