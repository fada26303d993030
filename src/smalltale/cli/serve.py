"""`smalltale serve` and `smalltale worker`: the hackathon's server and its judges."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from smalltale.server.database.session import Database

DatabaseOption = Annotated[
    str, typer.Option(help="sqlite:///FILE or postgresql://USER@HOST/NAME.", envvar="SMALLTALE_DATABASE")
]
LogJson = Annotated[
    bool, typer.Option("--log-json", help="Log one JSON object a line: requests, work and trouble.")
]
DEFAULT = "sqlite:///hackathon.db"


def add_to(app: typer.Typer) -> None:
    """Register the verbs."""
    app.command("serve")(serve)
    app.command("worker")(worker)


def open_database(database: str) -> Database:
    """The database, up to date. Raises MissingExtra without the packages of the web."""
    from smalltale.errors import MissingExtra

    try:
        from smalltale.server.database.session import Database
    except ModuleNotFoundError as error:
        raise MissingExtra(str(error.name), "web", "the hackathon's server") from error
    store = Database(database)
    store.migrate()
    return store


def serve(
    rules: Annotated[Path | None, typer.Option(help="The edition's TOML file.")] = None,
    database: DatabaseOption = DEFAULT,
    demo: Annotated[
        bool, typer.Option("--demo", help="Fill a sample edition and judge by a script.")
    ] = False,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.")] = 8000,
    public_url: Annotated[
        str,
        typer.Option(
            help="The address people type; https makes cookies secure.", envvar="SMALLTALE_PUBLIC_URL"
        ),
    ] = "",
    workers: Annotated[
        int, typer.Option(help="Judging threads in this process; 0 where `smalltale worker` runs beside it.")
    ] = 1,
    log_json: LogJson = False,
) -> None:
    """Run the hackathon's server."""
    import threading

    store = open_database(database)
    set_up_logs(log_json)

    import uvicorn

    from smalltale.errors import SmalltaleError
    from smalltale.server import worker as working
    from smalltale.server.editions.editions import import_edition, read_edition
    from smalltale.server.judging.panels import open_panel
    from smalltale.server.web.app import create_app
    from smalltale.server.web.oauth import load_providers

    if demo:
        from smalltale.server.demo import create_demo_edition

        create_demo_edition(store)
    elif rules is not None:
        import_edition(store, read_edition(rules))
    invite_first(store, public_url or f"http://{host}:{port}")
    stop = threading.Event()
    threads = [
        threading.Thread(target=working.run_worker, args=(store, open_panel, stop), daemon=True)
        for _ in range(workers)
    ]
    for each in threads:
        each.start()
    app = create_app(store, public_url=public_url, demo=demo, providers=load_providers())
    print(
        f"serving {public_url or f'http://{host}:{port}'} from {store.url.render_as_string()}; Ctrl-C stops it",
        flush=True,
    )
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
        proxy_headers=bool(public_url),
    )
    try:
        uvicorn.Server(config).run()
    except SystemExit as error:
        raise SmalltaleError(f"{host}:{port} cannot be listened on; choose another --port") from error
    finally:
        stop.set()
        for each in threads:
            each.join(timeout=5)
        store.close()


def set_up_logs(as_json: bool) -> None:
    """JSON lines on standard error, or words without the requests."""
    import logging
    import sys

    from smalltale.server.web.middleware.json_logs import REQUEST_LOGGER, configure_json_logs

    if as_json:
        configure_json_logs(sys.stderr)
    else:
        logging.getLogger(REQUEST_LOGGER).setLevel(logging.WARNING)


def invite_first(store: Database, url: str) -> None:
    """On an empty database, print one invitation that makes the first organiser."""
    from sqlalchemy import select

    from smalltale.server.accounts.accounts import invite_account
    from smalltale.server.database.models import Person

    with store.read() as session:
        if session.scalar(select(Person.id).where(Person.admin).limit(1)) is not None:
            return
    print(
        f"the first organiser joins here, once: {url}/join/{invite_account(store, 'server', admin=True)}",
        flush=True,
    )


def worker(
    database: DatabaseOption = DEFAULT,
    until_idle: Annotated[bool, typer.Option("--until-idle", help="Leave when nothing waits.")] = False,
    log_json: LogJson = False,
) -> None:
    """Judge what waits in the queue. Start as many as you like, on as many machines as reach the database."""
    import signal
    import threading

    store = open_database(database)
    set_up_logs(log_json)

    from smalltale.server import worker as working
    from smalltale.server.judging.panels import open_panel

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    done = working.run_worker(store, open_panel, stop, until_idle=until_idle)
    print(f"judged {done} hand-ins")
    store.close()
