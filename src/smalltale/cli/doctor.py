"""`smalltale doctor`: describe this machine, what it can train and what to install next."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer
from rich.console import Console
from rich.table import Table

from smalltale.cli.options import AsJson


def add_to(app: typer.Typer) -> None:
    app.command("doctor")(doctor)


def doctor(as_json: AsJson = False) -> None:
    """Show Python, torch, device, memory, extras, and what an hour of training achieves here."""
    from smalltale.doctor import inspect_machine

    report = inspect_machine()
    if as_json:
        typer.echo(json.dumps(asdict(report)))
        return
    console = Console()
    machine = Table("this machine", "", show_header=False, box=None, padding=(0, 2))
    for name, value in report.machine.items():
        machine.add_row(name, value)
    console.print(machine)
    extras = Table("extra", "state", "purpose", title="extras", title_justify="left")
    for extra in report.extras:
        state = f"missing {', '.join(extra.missing)}" if extra.missing else "installed"
        extras.add_row(extra.name, state, extra.purpose)
    console.print(extras)
    hour = Table("class", "model", "tokens/s (estimate)", "tokens per hour", title_justify="left")
    hour.title = "an hour of training here"
    for row in report.hour:
        hour.add_row(
            row.weight_class,
            f"{row.parameters / 1e6:.0f} M",
            f"{row.tokens_per_second:,.0f}",
            f"{row.tokens_per_hour / 1e6:,.0f} M",
        )
    console.print(hour)
    for step in report.next_steps:
        typer.echo(f"→ {step}")
