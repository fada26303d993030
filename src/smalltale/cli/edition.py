"""`smalltale edition`: prepare, back up, verify, export and import an edition of the hackathon."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from smalltale.cli.serve import DEFAULT_DATABASE, DatabaseOption, open_database

HUB = "hf://datasets/"


def add_to(app: typer.Typer) -> None:
    edition = typer.Typer(help="Prepare and manage an edition of the hackathon.", no_args_is_help=True)
    app.add_typer(edition, name="edition")
    for name, command in (
        ("check", check),
        ("backup", backup),
        ("restore", restore),
        ("verify", verify),
        ("export", export),
        ("import", import_event),
    ):
        edition.command(name)(command)


def check(
    rules: Annotated[Path, Argument(help="The edition's TOML file.")],
    against: Annotated[
        list[Path] | None, Option(help="A training text that must not contain the prompts; may be repeated.")
    ] = None,
) -> None:
    """Check an edition before it starts: leaked prompts, implausible dates, judges that have not qualified."""
    from datetime import UTC, datetime

    from smalltale.errors import SmalltaleError
    from smalltale.files import read_text
    from smalltale.server.editions.editions import read_edition
    from smalltale.server.editions.validate import check_edition

    texts = [read_text(path) for path in against or []]
    problems = check_edition(read_edition(rules), datetime.now(UTC), texts)
    errors = [problem for problem in problems if problem.error]
    for problem in problems:
        typer.echo(f"{'error' if problem.error else 'warning'}: {problem.text}")
    if errors:
        raise SmalltaleError(f"{rules} cannot be run: {len(errors)} errors; fix them and check again")
    typer.echo(f"{rules} can be run")


def backup(
    out: Annotated[Path, Argument(help="The file to write.")], database_url: DatabaseOption = DEFAULT_DATABASE
) -> None:
    """Copy the database to a file; the server may be running."""
    from smalltale.server.database.backup import backup as write_backup

    database = open_database(database_url)
    write_backup(database, out)
    database.close()
    typer.echo(f"wrote {out}, {out.stat().st_size:,} bytes")


def restore(
    source: Annotated[Path, Argument(help="A backup file.")], database_url: DatabaseOption = DEFAULT_DATABASE
) -> None:
    """Fill an empty database from a backup."""
    from smalltale.server.database.backup import restore as restore_backup

    restore_backup(source, database_url)
    open_database(database_url).close()
    typer.echo(f"restored {source}")


def verify(
    number: Annotated[int, Argument(help="The submission's number.")],
    checkpoint: Annotated[Path, Argument(help="The checkpoint folder that the team sent.")],
    database_url: DatabaseOption = DEFAULT_DATABASE,
    by: Annotated[str, Option(help="Your name, for the audit log.")] = "organiser",
    frozen: Annotated[list[str] | None, Option(help="A weight accepted as frozen; may be repeated.")] = None,
) -> None:
    """Verify a model received outside the server; exit code 1 unless it is verified.

    The verdict is shown on the submission's page.
    """
    from smalltale.server.verification.verification import verify_folder

    database = open_database(database_url)
    verification = verify_folder(database, by, number, checkpoint, frozen or ())
    database.close()
    count = verification.counted
    counted = "not counted" if count is None else f"{count:,} counted parameters"
    typer.echo("; ".join([f"submission {number}: {verification.verdict}, {counted}", *verification.reasons]))
    if verification.verdict != "verified":
        raise typer.Exit(1)


def export(
    slug: Annotated[str, Argument(help="The edition's short name.")],
    out: Annotated[Path, Argument(help="A new folder for the submissions, metadata.json and scores.")],
    database_url: DatabaseOption = DEFAULT_DATABASE,
    hub: Annotated[str | None, Option(help="Upload to this dataset, OWNER/NAME; reads HF_TOKEN.")] = None,
    private: Annotated[bool, Option("--private", help="Create the repository as private.")] = False,
) -> None:
    """Export an edition to a folder; optionally upload it to the Hub."""
    from smalltale.server.exchange.archive_export import export_edition

    database = open_database(database_url)
    count = export_edition(database, slug, out)
    database.close()
    typer.echo(f"wrote {count} submissions to {out}")
    if hub is not None:
        from smalltale.server.exchange.hub import upload_folder

        typer.echo(f"uploaded to {upload_folder(out, hub, private=private)}")


def import_event(
    rules: Annotated[Path, Argument(help="The edition's TOML file, for its rules and prompts.")],
    source: Annotated[
        str,
        Argument(
            help="A folder with submissions/USER/NAME_STAMP.csv, or hf://datasets/OWNER/NAME.",
            metavar="FOLDER",
        ),
    ],
    database_url: DatabaseOption = DEFAULT_DATABASE,
) -> None:
    """Import an earlier event: its submissions are queued for judging, or keep the scores of the folder."""
    from smalltale.server.editions.editions import import_edition, read_edition
    from smalltale.server.exchange.archive_import import import_archive

    draft = read_edition(rules)
    if source.startswith(HUB):
        from smalltale.server.exchange.hub import download_folder

        folder = download_folder(source.removeprefix(HUB))
    else:
        folder = Path(source)
    database = open_database(database_url)
    edition = import_edition(database, draft)
    imported, skipped = import_archive(database, edition, folder)
    database.close()
    for line in skipped:
        typer.echo(f"skipped: {line}")
    typer.echo(f"imported {imported} submissions, skipped {len(skipped)}")
