"""`smalltale export`, `import` and `frameworks`: train with another framework on prepared tokens, and import its model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from typer import Argument, Option

if TYPE_CHECKING:
    from smalltale.frameworks.records import Proof


def add_to(app: typer.Typer) -> None:
    app.command("export")(export_command)
    app.command("import")(import_command)
    frameworks = typer.Typer(
        help="List, install, train with and prove other training frameworks.", invoke_without_command=True
    )
    app.add_typer(frameworks, name="frameworks")
    frameworks.callback()(list_frameworks)
    frameworks.command("install")(install_command)
    frameworks.command("train")(train_command)
    frameworks.command("prove")(prove_command)


def list_frameworks(
    context: typer.Context,
    markdown: Annotated[bool, Option("--markdown", help="Print the recorded figures as Markdown.")] = False,
) -> None:
    """List the frameworks: version, state on this machine, and the date of the last proof."""
    if context.invoked_subcommand is None and markdown:
        from smalltale.frameworks.framework import all_frameworks
        from smalltale.frameworks.records import figures_table

        typer.echo(figures_table(all_frameworks()))
    elif context.invoked_subcommand is None:
        show_table()


def install_command(name: Annotated[str, Argument(help="A framework's name.")]) -> None:
    """Create a framework's environment in the cache folder, with the pinned versions."""
    from smalltale.frameworks.framework import get_framework
    from smalltale.frameworks.install import install

    environment = install(get_framework(name))
    typer.echo(
        f"{name} {environment.version}: {environment.megabytes:,} MB in {environment.seconds:.0f} s; its python is {environment.python}"
    )


def train_command(folder: Annotated[Path, Argument(help="An export folder of `smalltale export`.")]) -> None:
    """Train an exported recipe in its framework's environment; stop with Ctrl-C."""
    from smalltale.frameworks.run import read_export_framework, train

    framework = read_export_framework(folder)
    train(framework, folder, {})
    trust = " --trust" if framework.needs_trust else ""
    if framework.read is not None:
        checkpoint = folder / framework.checkpoint
        typer.echo(f"next: smalltale import {checkpoint} --from {framework.name}{trust} --out NEW")


def prove_command(
    names: Annotated[list[str] | None, Argument(help="Framework names; all by default.")] = None,
    cheap: Annotated[bool, Option("--cheap", help="Only those that CI proves at every change.")] = False,
    source: Annotated[str, Option(help="The stories, as for `smalltale corpus build --source`.")] = "fable",
    work: Annotated[Path, Option(help="The folder for the runs.")] = Path("runs/frameworks"),
    fresh: Annotated[bool, Option("--fresh", help="Create each environment again.")] = False,
    record: Annotated[bool, Option("--record", help="Save each proof as the framework's record.")] = False,
) -> None:
    """Prove frameworks by real runs (export, train, import, count, evaluate, generate, check); exit code 1 if one fails."""
    from smalltale.errors import SmalltaleError
    from smalltale.frameworks.framework import all_frameworks, get_framework
    from smalltale.frameworks.install import checkout_variable
    from smalltale.frameworks.proving import prove_all

    selected = [get_framework(name) for name in names or []]
    for framework in selected:
        checkout_variable(framework)
    for framework in all_frameworks() if not selected else []:
        if cheap and not framework.quick_to_prove:
            continue
        try:
            checkout_variable(framework)
        except SmalltaleError as error:
            typer.echo(f"{framework.name} is skipped: {error}")
            continue
        selected.append(framework)
    proofs = []
    for proof in prove_all(selected, work.absolute(), source, fresh=fresh, record=record):
        typer.echo(f"{proof.name}: {'pass' if proof.passed else 'FAIL'}: {proof.message}")
        proofs.append(proof)
    show_proofs(proofs)
    if not all(proof.passed for proof in proofs):
        raise typer.Exit(1)


def export_command(
    tokens: Annotated[Path, Argument(help="A token folder of `smalltale tokens encode`.")],
    name: Annotated[str, Option("--for", help="A framework's name, from `smalltale frameworks`.")],
    out: Annotated[Path, Option(help="The folder to write; new or empty.")],
    tokenizer: Annotated[Path | None, Option(help="The tokenizer folder (default: next to TOKENS).")] = None,
    layers: Annotated[int | None, Option(help="Number of layers (default: fill the small class).")] = None,
    width: Annotated[int | None, Option(help="Hidden size.")] = None,
    heads: Annotated[int | None, Option(help="Attention heads.")] = None,
    context: Annotated[int | None, Option(help="Context length in tokens.")] = None,
    rows: Annotated[int | None, Option(help="Batch size in rows.")] = None,
    steps: Annotated[int | None, Option(help="Optimizer steps.")] = None,
    learning_rate: Annotated[float | None, Option(help="Peak learning rate.")] = None,
) -> None:
    """Write tokens in another framework's format, with a training recipe that runs."""
    from smalltale.errors import FileProblem
    from smalltale.frameworks.exporting import export, plan_for_small_class
    from smalltale.frameworks.framework import get_framework
    from smalltale.tokens.token_folder import read_tokens

    framework = get_framework(name)
    tokenizer_folder = tokenizer or tokens.parent / "tokenizer"
    if not tokenizer_folder.is_dir():
        raise FileProblem(f"{tokenizer_folder} is not a folder; give the tokenizer folder with --tokenizer")
    plan = plan_for_small_class(
        read_tokens(tokens).meta["vocabulary"],
        layers=layers,
        width=width,
        heads=heads,
        context=context,
        batch_rows=rows,
        steps=steps,
        learning_rate=learning_rate,
    )
    export(framework, tokens, tokenizer_folder, out, plan)
    typer.echo(f"{out}: {framework.title}, {plan.layers} layers of {plan.width}; next: {out / 'README.md'}")


def import_command(
    checkpoint: Annotated[Path, Argument(help="The checkpoint that the framework wrote: a file or folder.")],
    name: Annotated[str, Option("--from", help="A framework's name, from `smalltale frameworks`.")],
    out: Annotated[Path, Option(help="The checkpoint folder to write.")],
    tokenizer: Annotated[Path | None, Option(help="The tokenizer folder (default: near CHECKPOINT).")] = None,
    trust: Annotated[bool, Option("--trust", help="Open a pickle; only tensors are loaded from it.")] = False,
) -> None:
    """Import a framework's checkpoint as a smalltale checkpoint."""
    from smalltale.frameworks.framework import get_framework
    from smalltale.frameworks.importing import import_checkpoint

    imported = import_checkpoint(get_framework(name), checkpoint, out, trust=trust, tokenizer=tokenizer)
    fits = f"fits class {imported.weight_class}" if imported.weight_class else "fits no class"
    logits = (
        "no reference logits to compare with"
        if imported.reference is None
        else f"largest difference from the framework's logits {imported.reference.difference:.1e}"
    )
    typer.echo(f"{out}: {imported.counted:,} counted parameters, {fits}; {logits}")


def show_table() -> None:
    """Print one row per framework."""
    from smalltale.frameworks.framework import all_frameworks
    from smalltale.frameworks.install import find_environment, pinned_version
    from smalltale.frameworks.records import is_stale, read_record

    table = Table("name", "framework", "version", "here", "last proven")
    for framework in all_frameworks():
        environment, proof = find_environment(framework), read_record(framework)
        state = "no" if environment is None else "installed" if environment.current else "outdated"
        proven = "never"
        if proof is not None:
            date = proof.proven_at[:10] if proof.passed else f"FAILED {proof.proven_at[:10]}"
            proven = f"{date}, stale" if is_stale(framework, proof) else date
        table.add_row(framework.name, framework.title, pinned_version(framework), state, proven)
    Console().print(table)
    typer.echo(
        "here: whether its environment is on this machine; no or outdated: smalltale frameworks install NAME\n"
        "stale: its recipe or its pinned versions have changed since the proof"
    )


def show_proofs(proofs: list[Proof]) -> None:
    """Print the verdict, figures and message of each proof."""
    from smalltale.frameworks.records import format_figures

    table = Table(
        "framework", "", "loss", "tokens/s", "smalltale", "logits", "counted", "bits/byte", "seconds", "message",
    )  # fmt: skip
    for proof in proofs:
        figures = format_figures(proof.figures)
        table.add_row(
            proof.name,
            "pass" if proof.passed else "FAIL",
            figures["losses"],
            figures["tokens_per_second"],
            figures["own_tokens_per_second"],
            figures["largest_logit_difference"],
            figures["counted_parameters"],
            figures["bits_per_byte"],
            f"{proof.seconds:.0f}" if proof.seconds else "",
            proof.message,
        )
    Console(width=180).print(table)
