"""`smalltale submission`: the gate, before you hand in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def add_to(app: typer.Typer) -> None:
    """Register `submission check` and `submission export`."""
    submission = typer.Typer(help="Check a hand-in, or open it in a spreadsheet.", no_args_is_help=True)
    app.add_typer(submission, name="submission")

    @submission.command("check")
    def check(
        file: Annotated[Path, typer.Argument(help="The hand-in: .csv, .jsonl or .parquet.")],
        prompts: Annotated[Path, typer.Option(help="The prompts asked for.")],
        rules: Annotated[Path | None, typer.Option(help="An edition's rules (TOML).")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
    ) -> None:
        """Every problem of a hand-in at once; exit code 2 where it would be refused."""
        from smalltale.files import read_text
        from smalltale.rules import Rules, parse_rules
        from smalltale.submission import check_submission_files

        edition = parse_rules(read_text(rules), str(rules)) if rules else Rules()
        verdict = check_submission_files(file, prompts, edition)
        if as_json:
            typer.echo(
                json.dumps(
                    {
                        "accepted": verdict.accepted,
                        "rows": len(verdict.rows),
                        "errors": [str(each) for each in verdict.errors],
                        "warnings": [str(each) for each in verdict.warnings],
                    },
                    ensure_ascii=False,
                )
            )
        else:
            console = Console()
            for kind, findings in (("error", verdict.errors), ("warning", verdict.warnings)):
                for each in findings:
                    console.print(f"{kind}: {each}", markup=False, highlight=False, soft_wrap=True)
            state = "accepted" if verdict.accepted else f"refused, {len(verdict.errors)} errors"
            console.print(f"{file}: {state}, {len(verdict.rows)} rows", markup=False, highlight=False)
        if not verdict.accepted:
            raise typer.Exit(2)

    @submission.command("export")
    def export(
        file: Annotated[Path, typer.Argument(help="The hand-in: .csv, .jsonl or .parquet.")],
        out: Annotated[Path, typer.Option(help="The CSV to write, for reading.")],
    ) -> None:
        """A copy to open in a spreadsheet: text that it would take for a formula begins with an apostrophe."""
        from smalltale.submission import export_for_spreadsheet, read_submission

        rows = read_submission(file)
        export_for_spreadsheet(out, rows)
        Console().print(
            f"{out}: {len(rows)} rows to read; hand in {file}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
