"""`smalltale submission`: check a submission before submitting it, or export it for a spreadsheet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from smalltale.cli.options import AsJson, SubmissionFile


def add_to(app: typer.Typer) -> None:
    submission = typer.Typer(help="Check a submission, or export it for a spreadsheet.", no_args_is_help=True)
    app.add_typer(submission, name="submission")
    submission.command("check")(check)
    submission.command("export")(export)


def check(
    file: SubmissionFile,
    prompts: Annotated[Path, Option(help="The prompt file.")],
    rules: Annotated[Path | None, Option(help="An edition's rules (TOML).")] = None,
    as_json: AsJson = False,
) -> None:
    """List every problem of a submission; exit code 2 if it would be refused."""
    from smalltale.files import read_text
    from smalltale.rules import Rules, parse_rules
    from smalltale.submission import check_submission_files

    edition_rules = parse_rules(read_text(rules), str(rules)) if rules else Rules()
    result = check_submission_files(file, prompts, edition_rules)
    errors, warnings = [str(error) for error in result.errors], [str(warning) for warning in result.warnings]
    if as_json:
        summary = {"accepted": result.accepted, "rows": len(result.rows)}
        typer.echo(json.dumps({**summary, "errors": errors, "warnings": warnings}, ensure_ascii=False))
    else:
        for line in [f"error: {error}" for error in errors] + [f"warning: {warning}" for warning in warnings]:
            typer.echo(line)
        state = "accepted" if result.accepted else f"refused, {len(errors)} error{'s' * (len(errors) != 1)}"
        typer.echo(f"{file}: {state}, {len(result.rows)} rows")
    if not result.accepted:
        raise typer.Exit(2)


def export(file: SubmissionFile, out: Annotated[Path, Option(help="The CSV to write.")]) -> None:
    """Write a copy to read in a spreadsheet: cells that would be formulas begin with an apostrophe."""
    from smalltale.submission import export_for_spreadsheet, read_submission

    rows = read_submission(file)
    export_for_spreadsheet(out, rows)
    typer.echo(f"{out}: {len(rows)} rows for reading; submit {file}")
