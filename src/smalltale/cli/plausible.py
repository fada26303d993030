"""`smalltale plausible`: could this model, sampled as declared, have written these stories?"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Register `plausible`."""

    @app.command("plausible")
    def plausible(
        checkpoint: Annotated[str, typer.Argument(help="A checkpoint folder, ours or Hugging Face's.")],
        stories: Annotated[Path, typer.Option(help="The hand-in: .csv, .jsonl or .parquet.")],
        sampling: Annotated[
            str | None,
            typer.Option(help="The declared settings; those of submission.json beside the stories else."),
        ] = None,
        device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
        as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
    ) -> None:
        """Hold a hand-in's stories against the model's own; exit code 1 where they are implausible."""
        from smalltale.files import read_json
        from smalltale.generation.language_model import open_language_model
        from smalltale.metrics.declared_sampling import parse_declared_sampling
        from smalltale.metrics.provenance import check_plausibility
        from smalltale.submission import read_submission

        if sampling is None:
            beside = stories.with_name("submission.json")
            found = read_json(beside).get("sampling", "") if beside.exists() else ""
            sampling = found if isinstance(found, str) else json.dumps(found)
        settings = parse_declared_sampling(sampling)
        rows = read_submission(stories)
        teller = open_language_model(checkpoint, device, settings.config.dtype)
        said = check_plausibility(
            teller, rows, settings.config, declared=settings.readable, seeded=settings.seeded
        )
        if as_json:
            typer.echo(json.dumps(asdict(said)))
        else:
            typer.echo(
                "; ".join(
                    [f"{said.verdict}: {said.stories} stories of {said.prompts} prompts", *said.reasons]
                )
            )
            typer.echo(
                f"log-probability {said.log_probability:.3f} nats a token, the model's own {said.own_log_probability:.3f} "
                f"(z = {said.z:.1f}; less likely in {said.less_likely:.0%} of pairs); "
                f"cut off by the settings {said.impossible:.2%}, own {said.own_impossible:.2%}"
            )
            if said.regenerated is not None:
                typer.echo(
                    f"word for word again with the declared seed: {said.regenerated} of {said.stories}"
                )
        if said.verdict == "implausible":
            raise typer.Exit(1)
