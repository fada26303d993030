"""`smalltale serve` and `smalltale worker`: the hackathon's server and its judging workers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

if TYPE_CHECKING:
    from fastapi import FastAPI

    from smalltale.server.database.session import Database

DatabaseOption = Annotated[
    str,
    Option("--database", help="sqlite:///FILE or postgresql://USER@HOST/NAME.", envvar="SMALLTALE_DATABASE"),
]
LogJson = Annotated[bool, Option("--log-json", help="Log requests, jobs and errors as JSON lines.")]
DEFAULT_DATABASE = "sqlite:///hackathon.db"


def add_to(app: typer.Typer) -> None:
    app.command("serve")(serve)
    app.command("worker")(worker)


def open_database(url: str) -> Database:
    """Open the database and migrate its schema. Raises MissingExtra without the packages of the extra web."""
    from smalltale.errors import MissingExtra

    try:
        from smalltale.server.database.session import Database
    except ModuleNotFoundError as error:
        raise MissingExtra(str(error.name), "web", "the hackathon's server") from error
    database = Database(url)
    database.migrate()
    return database


def serve(
    rules: Annotated[Path | None, Option(help="The edition's TOML file.")] = None,
    database_url: DatabaseOption = DEFAULT_DATABASE,
    demo: Annotated[bool, Option("--demo", help="Create a sample edition with a scripted judge.")] = False,
    host: Annotated[str, Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Option(help="The port to listen on.")] = 8000,
    public_url: Annotated[
        str, Option(help="The public address; with https, cookies are secure.", envvar="SMALLTALE_PUBLIC_URL")
    ] = "",
    workers: Annotated[int, Option(help="Judging threads; 0 if `smalltale worker` runs separately.")] = 1,
    log_json: LogJson = False,
) -> None:
    """Run the hackathon's server."""
    import threading

    database = open_database(database_url)
    configure_logs(log_json)

    from smalltale.server import worker as judging_worker
    from smalltale.server.editions.editions import import_edition, read_edition
    from smalltale.server.judging.panels import open_panel
    from smalltale.server.web.app import create_app
    from smalltale.server.web.oauth import load_providers

    if demo:
        from smalltale.server.demo import create_demo_edition

        create_demo_edition(database)
    elif rules is not None:
        import_edition(database, read_edition(rules))
    print_first_invitation(database, public_url or f"http://{host}:{port}")
    stop = threading.Event()
    threads = [
        threading.Thread(target=judging_worker.run_worker, args=(database, open_panel, stop), daemon=True)
        for _ in range(workers)
    ]
    for thread in threads:
        thread.start()
    app = create_app(database, public_url=public_url, demo=demo, providers=load_providers())
    print(
        f"serving {public_url or f'http://{host}:{port}'} from {database.url.render_as_string()}; Ctrl-C stops it",
        flush=True,
    )
    try:
        run_uvicorn(app, host, port, log_json=log_json, behind_proxy=bool(public_url))
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=5)
        database.close()


def run_uvicorn(app: FastAPI, host: str, port: int, *, log_json: bool, behind_proxy: bool) -> None:
    """Serve until Ctrl-C. Raises SmalltaleError if the address cannot be opened."""
    import uvicorn

    from smalltale.errors import SmalltaleError

    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None if log_json else uvicorn.config.LOGGING_CONFIG,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=15,
        h11_max_incomplete_event_size=32_768,
        proxy_headers=behind_proxy,
    )
    try:
        uvicorn.Server(config).run()
    except SystemExit as error:
        raise SmalltaleError(f"{host}:{port} cannot be opened; choose another --port") from error


def configure_logs(as_json: bool) -> None:
    """Log JSON lines on standard error, or text without the requests."""
    import logging
    import sys

    from smalltale.server.web.middleware.json_logs import REQUEST_LOGGER, configure_json_logs

    if as_json:
        configure_json_logs(sys.stderr)
    else:
        logging.getLogger(REQUEST_LOGGER).setLevel(logging.WARNING)


def print_first_invitation(database: Database, url: str) -> None:
    """Print a single-use invitation for the first organiser, unless there is an organiser."""
    from sqlalchemy import select

    from smalltale.server.accounts.accounts import invite_account
    from smalltale.server.database.models import Person

    with database.read() as session:
        if session.scalar(select(Person.id).where(Person.admin).limit(1)) is not None:
            return
    print(
        f"single-use invitation for the first organiser: {url}/join/{invite_account(database, 'server', admin=True)}",
        flush=True,
    )


def worker(
    database_url: DatabaseOption = DEFAULT_DATABASE,
    until_idle: Annotated[bool, Option("--until-idle", help="Exit when the queue is empty.")] = False,
    log_json: LogJson = False,
) -> None:
    """Judge the submissions in the queue; any number of workers may run, on any machine that reaches the database."""
    import signal
    import threading

    database = open_database(database_url)
    configure_logs(log_json)

    from smalltale.server import worker as judging_worker
    from smalltale.server.judging.panels import open_panel

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    judged = judging_worker.run_worker(database, open_panel, stop, until_idle=until_idle)
    print(f"judged {judged} submissions")
    database.close()
