"""`smalltale provenance`: check whether a model, sampled as declared, could have written a submission's stories."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from smalltale.cli.options import AsJson, DeviceName


def add_to(app: typer.Typer) -> None:
    app.command("provenance")(provenance)
    app.command("plausible", hidden=True)(provenance)


def provenance(
    checkpoint: Annotated[str, Argument(help="A checkpoint folder of smalltale or Hugging Face.")],
    stories: Annotated[Path, Option(help="The submission: .csv, .jsonl or .parquet.")],
    sampling: Annotated[
        str | None, Option(help="The declared sampling settings (default: those in submission.json).")
    ] = None,
    device: DeviceName = "auto",
    as_json: AsJson = False,
) -> None:
    """Check whether this model could have written these stories; exit code 1 if that is implausible."""
    from smalltale.files import read_json
    from smalltale.generation.language_model import open_language_model
    from smalltale.metrics.declared_sampling import parse_declared_sampling
    from smalltale.metrics.provenance import check_plausibility
    from smalltale.submission import read_submission

    if sampling is None:
        path = stories.with_name("submission.json")
        declared = read_json(path).get("sampling", "") if path.exists() else ""
        sampling = declared if isinstance(declared, str) else json.dumps(declared)
    settings = parse_declared_sampling(sampling)
    rows = read_submission(stories)
    model = open_language_model(checkpoint, device, settings.config.dtype)
    report = check_plausibility(
        model, rows, settings.config, declared=settings.readable, seeded=settings.seeded
    )
    if as_json:
        typer.echo(json.dumps(asdict(report)))
    else:
        verdict = f"{report.verdict}: {report.stories} stories of {report.prompts} prompts"
        typer.echo("; ".join([verdict, *report.reasons]))
        typer.echo(
            f"log-probability {report.log_probability:.3f} nats per token, the model's own stories "
            f"{report.own_log_probability:.3f} (z = {report.z:.1f}; less likely in {report.less_likely:.0%} of pairs); "
            f"tokens excluded by the settings {report.impossible:.2%}, own stories {report.own_impossible:.2%}"
        )
        if report.regenerated is not None:
            typer.echo(f"reproduced exactly with the declared seed: {report.regenerated} of {report.stories}")
    if report.verdict == "implausible":
        raise typer.Exit(1)
