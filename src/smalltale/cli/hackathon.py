"""`smalltale login` and `submit` for contestants, `smalltale edition` for organisers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from smalltale.cli.serve import DEFAULT, DatabaseOption, open_database

HUB = "hf://datasets/"
Number = Annotated[int, typer.Argument(help="The hand-in's number.")]


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.command("login")(login)
    app.command("submit")(submit)
    edition = typer.Typer(help="Prepare and look after an edition of the hackathon.", no_args_is_help=True)
    app.add_typer(edition, name="edition")
    for name, verb in (
        ("check", check),
        ("backup", backup),
        ("restore", restore),
        ("verify", verify),
        ("export", export),
        ("import", import_event),
    ):
        edition.command(name)(verb)


def login(url: Annotated[str, typer.Argument(help="The hackathon's address.")]) -> None:
    """Keep an API token from your account page for `smalltale submit`."""
    from smalltale.errors import SmalltaleError
    from smalltale.server.client import call_api, save_token, token_file

    token = typer.prompt("API token (from your account page)", hide_input=True).strip()
    if not token.startswith("smalltale_"):
        raise SmalltaleError("this is no token; it begins with smalltale_, make one on your account page")
    call_api(url, "/editions")
    save_token(url, token)
    print(f"kept in {token_file()}")


def submit(
    to: Annotated[str, typer.Option(help="The hackathon's address.")],
    file: Annotated[
        Path | None,
        typer.Argument(help="The hand-in: CSV, Parquet or JSONL; submission.json beside it is read."),
    ] = None,
    edition: Annotated[
        str | None, typer.Option(help="The edition's short name; the latest where none is given.")
    ] = None,
    final: Annotated[
        bool, typer.Option("--final", help="The one final hand-in, on the final prompts.")
    ] = False,
    check_only: Annotated[
        bool, typer.Option("--check", help="Only try it at the gate; nothing is kept or used up.")
    ] = False,
    weight_class: Annotated[
        str | None, typer.Option("--class", help="Over what submission.json says.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Training data, over what submission.json says.")] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Declare that the model was trained from scratch.")
    ] = False,
    model: Annotated[
        Path | None, typer.Option(help="The checkpoint folder, to be verified: with --final, or --hand-in.")
    ] = None,
    number: Annotated[
        int | None, typer.Option("--hand-in", help="The hand-in whose --model is sent, instead of a file.")
    ] = None,
) -> None:
    """Hand in a file, send the model of a hand-in, or both."""
    from smalltale.errors import SmalltaleError
    from smalltale.server.client import call_api, load_token, read_declaration

    if (file is None) == (number is None) or (model is None and number is not None):
        raise SmalltaleError("give a file to hand in, or --model CHECKPOINT with --hand-in NUMBER")
    if model is not None and number is None and (check_only or not final):
        raise SmalltaleError(
            "--model goes with --final, or with --hand-in NUMBER where organisers ask for it"
        )
    token = load_token(to)
    if file is None:
        send(to, number, model, token)
        return
    if edition is None:
        known = call_api(to, "/editions")
        if not known:
            raise SmalltaleError(f"{to} has no edition yet; try again when it has begun")
        edition = str(known[0]["slug"])
    kind = "final" if final else "daily"
    if check_only:
        verdict = call_api(to, f"/editions/{edition}/check/{kind}", token=token, form=({}, file))
        for line in (*verdict["errors"], *(f"warning: {each}" for each in verdict["warnings"])):
            print(line)
        if not verdict["accepted"]:
            raise SmalltaleError(
                f"{file} would not be accepted: {len(verdict['errors'])} problems; mend them and check again"
            )
        print(f"{file} passes the gate; nothing was used up")
        return
    fields = read_declaration(file)
    fields |= {name: value for name, value in (("weight_class", weight_class), ("data", data)) if value}
    if from_scratch:
        fields["from_scratch"] = "true"
    taken = call_api(to, f"/editions/{edition}/hand-ins/{kind}", token=token, form=(fields, file))
    print(
        f"accepted as hand-in {taken['id']}, number {taken['place_in_queue']} in the queue: {to.rstrip('/')}/hand-ins/{taken['id']}"
    )
    if model is not None:
        send(to, taken["id"], model, token)


def send(to: str, number: int | None, model: Path | None, token: str) -> None:
    """Send a model and say so."""
    from smalltale.server.client import send_model

    assert number is not None
    assert model is not None
    send_model(to, number, model, token)
    print(f"sent; the verdict will stand on {to.rstrip('/')}/hand-ins/{number}")


def check(
    rules: Annotated[Path, typer.Argument(help="The edition's TOML file.")],
    against: Annotated[
        list[Path] | None, typer.Option(help="A text people train on; prompts must not stand in it.")
    ] = None,
) -> None:
    """Look for what would go wrong: leaking prompts, odd dates, judges that may not rank."""
    from datetime import UTC, datetime

    from smalltale.errors import SmalltaleError
    from smalltale.files import read_text
    from smalltale.server.editions.editions import read_edition
    from smalltale.server.editions.validate import check_edition

    found = check_edition(read_edition(rules), datetime.now(UTC), [read_text(path) for path in against or []])
    for each in found:
        print(f"{'error' if each.error else 'warning'}: {each.text}")
    if any(each.error for each in found):
        raise SmalltaleError(
            f"{rules} is not fit to run: {sum(each.error for each in found)} errors; mend them and check again"
        )
    print(f"{rules} is fit to run")


def backup(
    out: Annotated[Path, typer.Argument(help="The file to write.")], database: DatabaseOption = DEFAULT
) -> None:
    """Copy the whole database to a file, while the server runs."""
    from smalltale.server.database.backup import backup as write

    store = open_database(database)
    write(store, out)
    store.close()
    print(f"wrote {out}, {out.stat().st_size:,} bytes")


def restore(
    source: Annotated[Path, typer.Argument(help="A backup.")], database: DatabaseOption = DEFAULT
) -> None:
    """Fill an empty database from a backup."""
    from smalltale.server.database.backup import restore as fill

    fill(source, database)
    open_database(database).close()
    print(f"restored {source}")


def verify(
    number: Number,
    checkpoint: Annotated[Path, typer.Argument(help="The checkpoint folder that the team sent.")],
    database: DatabaseOption = DEFAULT,
    by: Annotated[str, typer.Option(help="Your name, for the audit log.")] = "organiser",
    frozen: Annotated[
        list[str] | None, typer.Option(help="A weight you accept as frozen; may be given again.")
    ] = None,
) -> None:
    """Look at a model that came another way; the verdict stands on the hand-in's page. Exit code 1 unless it is verified."""
    from smalltale.server.verification.verification import verify_folder

    store = open_database(database)
    found = verify_folder(store, by, number, checkpoint, frozen or ())
    store.close()
    counted = f"{found.counted:,} counted parameters" if found.counted is not None else "not counted"
    print("; ".join([f"hand-in {number}: {found.verdict}, {counted}", *found.reasons]))
    if found.verdict != "verified":
        raise typer.Exit(1)


def export(
    slug: Annotated[str, typer.Argument(help="The edition's short name.")],
    out: Annotated[
        Path, typer.Argument(help="A new folder: submissions/USER/NAME_STAMP.csv, metadata.json, scores.")
    ],
    database: DatabaseOption = DEFAULT,
    hub: Annotated[
        str | None, typer.Option(help="OWNER/NAME of a dataset repository to send it to; HF_TOKEN is read.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="A new repository is private.")] = False,
) -> None:
    """Write an edition as a folder and send it to a Hugging Face dataset repository."""
    from smalltale.server.exchange.archive_export import export_edition

    store = open_database(database)
    count = export_edition(store, slug, out)
    store.close()
    print(f"wrote {count} hand-ins to {out}")
    if hub is not None:
        from smalltale.server.exchange.hub import upload_folder

        print(f"sent to {upload_folder(out, hub, private=private)}")


def import_event(
    rules: Annotated[Path, typer.Argument(help="The edition's TOML file, for its rules and prompts.")],
    source: Annotated[
        str,
        typer.Argument(
            help="A folder with submissions/USER/NAME_STAMP.csv, or hf://datasets/OWNER/NAME.",
            metavar="FOLDER",
        ),
    ],
    database: DatabaseOption = DEFAULT,
) -> None:
    """Load an old event: its hand-ins are queued to be judged, or keep the scores that lie beside them."""
    from smalltale.server.editions.editions import import_edition, read_edition
    from smalltale.server.exchange.archive_import import import_archive

    draft = read_edition(rules)
    if source.startswith(HUB):
        from smalltale.server.exchange.hub import download_folder

        folder = download_folder(source.removeprefix(HUB))
    else:
        folder = Path(source)
    store = open_database(database)
    edition = import_edition(store, draft)
    taken, refused = import_archive(store, edition, folder)
    store.close()
    for line in refused:
        print(f"left out: {line}")
    print(f"loaded {taken} hand-ins, left out {len(refused)}")
