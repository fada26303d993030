"""`smalltale login` and `smalltale submit`: send a submission or a model to a hackathon's server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option


def add_to(app: typer.Typer) -> None:
    app.command("login")(login)
    app.command("submit")(submit)


def login(url: Annotated[str, Argument(help="The hackathon's address.")]) -> None:
    """Save an API token of your account page for `smalltale submit`."""
    from smalltale.errors import SmalltaleError
    from smalltale.server.client import call_api, save_token, token_file

    token = typer.prompt("API token (from your account page)", hide_input=True).strip()
    if not token.startswith("smalltale_"):
        raise SmalltaleError("a token begins with smalltale_; create one on your account page")
    call_api(url, "/editions")
    save_token(url, token)
    typer.echo(f"saved in {token_file()}")


def submit(
    to: Annotated[str, Option(help="The hackathon's address.")],
    file: Annotated[
        Path | None,
        Argument(help="The submission (.csv, .parquet or .jsonl), with its submission.json next to it."),
    ] = None,
    edition: Annotated[str | None, Option(help="The edition's short name; the latest by default.")] = None,
    final: Annotated[bool, Option("--final", help="Submit for the final, on its prompts.")] = False,
    check_only: Annotated[
        bool, Option("--check", help="Only check it. Nothing is saved; your daily submission is not used.")
    ] = False,
    weight_class: Annotated[str | None, Option("--class", help="Override the declared weight class.")] = None,
    data: Annotated[str | None, Option(help="Override the declared training data.")] = None,
    from_scratch: Annotated[bool, Option("--from-scratch", help="Declare training from scratch.")] = False,
    model: Annotated[Path | None, Option(help="The checkpoint, for --final or --submission.")] = None,
    number: Annotated[
        int | None, Option("--submission", "--hand-in", help="Send --model for this earlier submission.")
    ] = None,
) -> None:
    """Submit a file, send the model of a submission, or both."""
    from smalltale.errors import SmalltaleError
    from smalltale.server.client import call_api, load_token, read_declaration

    if (file is None) == (number is None) or (model is None and number is not None):
        raise SmalltaleError("give a file to submit, or --model CHECKPOINT with --submission NUMBER")
    if model is not None and number is None and (check_only or not final):
        raise SmalltaleError(
            "--model needs --final, or --submission NUMBER for a model that the organisers asked for; add one of them"
        )
    token = load_token(to)
    if file is None:
        upload_model(to, number, model, token)
        return
    if edition is None:
        editions = call_api(to, "/editions")
        if not editions:
            raise SmalltaleError(f"{to} has no edition yet; try again when it has begun")
        edition = str(editions[0]["slug"])
    kind = "final" if final else "daily"
    if check_only:
        check_remotely(to, edition, kind, file, token)
        return
    fields = read_declaration(file)
    fields |= {name: value for name, value in (("weight_class", weight_class), ("data", data)) if value}
    if from_scratch:
        fields["from_scratch"] = "true"
    accepted = call_api(
        to, f"/editions/{edition}/submissions/{kind}", token=token, fields=fields, files=[("file", file)]
    )
    typer.echo(
        f"accepted as submission {accepted['id']}, number {accepted['place_in_queue']} in the queue: "
        f"{submission_url(to, accepted['id'])}"
    )
    if model is not None:
        upload_model(to, accepted["id"], model, token)


def check_remotely(to: str, edition: str, kind: str, file: Path, token: str) -> None:
    """Let the server check a submission without saving it. Raises SmalltaleError if it would be refused."""
    from smalltale.errors import SmalltaleError
    from smalltale.server.client import call_api

    result = call_api(to, f"/editions/{edition}/check/{kind}", token=token, files=[("file", file)])
    for line in (*result["errors"], *(f"warning: {warning}" for warning in result["warnings"])):
        typer.echo(line)
    if not result["accepted"]:
        count = len(result["errors"])
        raise SmalltaleError(f"{file} would be refused: {count} problems; fix them and check again")
    typer.echo(f"{file} would be accepted. Nothing was saved; your daily submission is not used.")


def upload_model(to: str, number: int | None, model: Path | None, token: str) -> None:
    """Upload the model of a submission."""
    from smalltale.server.client import send_model

    assert number is not None
    assert model is not None
    send_model(to, number, model, token)
    typer.echo(f"sent; the result will be shown on {submission_url(to, number)}")


def submission_url(to: str, number: int) -> str:
    return f"{to.rstrip('/')}/submissions/{number}"
