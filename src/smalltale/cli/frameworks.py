"""`smalltale export`, `smalltale import`, `smalltale frameworks`: prepared tokens out to another trainer, its model back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from smalltale.frameworks.records import Proof


def add_to(app: typer.Typer) -> None:
    """Register `export`, `import` and `frameworks`."""
    add_ways(app)
    frameworks = typer.Typer(
        help="Other trainers: what is installed, what was proven.", invoke_without_command=True
    )
    app.add_typer(frameworks, name="frameworks")

    @frameworks.callback()
    def table(
        context: typer.Context,
        markdown: Annotated[
            bool, typer.Option("--markdown", help="The recorded figures, as a table for a page.")
        ] = False,
    ) -> None:
        """The table of frameworks: version, state on this machine, when its row was last proven."""
        if context.invoked_subcommand is None and markdown:
            from smalltale.frameworks.framework import every_framework
            from smalltale.frameworks.records import figures_table

            say(figures_table(every_framework()))
        elif context.invoked_subcommand is None:
            show_table()

    @frameworks.command("install")
    def install_verb(name: Annotated[str, typer.Argument(help="A framework's name.")]) -> None:
        """Make a framework's environment, in the cache folder, from the versions kept in smalltale."""
        from smalltale.frameworks.framework import framework
        from smalltale.frameworks.install import install

        made = install(framework(name))
        say(
            f"{name} {made.version}: {made.megabytes:,} MB in {made.seconds:.0f} s; its python is {made.python}"
        )

    @frameworks.command("train")
    def train_verb(
        folder: Annotated[Path, typer.Argument(help="An export folder (smalltale export).")],
    ) -> None:
        """Run an exported recipe in its framework's environment; stopped with Ctrl-C."""
        from smalltale.frameworks.run import framework_of, train

        chosen = framework_of(folder)
        train(chosen, folder, {})
        trust = " --trust" if chosen.needs_trust else ""
        if chosen.read is not None:
            say(
                f"go on with: smalltale import {folder / chosen.checkpoint} --from {chosen.name}{trust} --out NEW"
            )

    @frameworks.command("prove")
    def prove_verb(
        names: Annotated[list[str] | None, typer.Argument(help="Frameworks; all by default.")] = None,
        cheap: Annotated[
            bool, typer.Option("--cheap", help="Those that are proven at every change.")
        ] = False,
        source: Annotated[str, typer.Option(help="The stories: as for corpus build.")] = "fable",
        work: Annotated[Path, typer.Option(help="Where the runs are kept.")] = Path("runs/frameworks"),
        fresh: Annotated[bool, typer.Option("--fresh", help="Make each environment anew.")] = False,
        record: Annotated[
            bool, typer.Option("--record", help="Keep each proof as the row's last one, in smalltale itself.")
        ] = False,
    ) -> None:
        """Prove rows by real runs: export, train, import, count, evaluate, generate, check. Exit code 1 where one fails."""
        from smalltale.errors import SmalltaleError
        from smalltale.frameworks.framework import every_framework, framework
        from smalltale.frameworks.install import checkout_variable
        from smalltale.frameworks.proving import prove_all

        rows = [framework(name) for name in names or []]
        for each in rows:
            checkout_variable(each)
        for each in every_framework() if not rows else []:
            if cheap and not each.cheap:
                continue
            try:
                checkout_variable(each)
            except SmalltaleError as error:
                say(f"{each.name} is left out: {error}")
                continue
            rows.append(each)
        proofs = []
        for proof in prove_all(rows, work.absolute(), source, fresh=fresh, record=record):
            say(f"{proof.name}: {'pass' if proof.passed else 'FAIL'}: {proof.message}")
            proofs.append(proof)
        show_proofs(proofs)
        if not all(each.passed for each in proofs):
            raise typer.Exit(1)


def add_ways(app: typer.Typer) -> None:
    """Register `export` and `import`."""

    @app.command("export")
    def export_verb(
        tokens: Annotated[Path, typer.Argument(help="The token folder (smalltale tokens encode).")],
        name: Annotated[str, typer.Option("--for", help="A framework's name (smalltale frameworks).")],
        out: Annotated[Path, typer.Option(help="The folder to write; it must not exist yet.")],
        tokenizer: Annotated[
            Path | None, typer.Option(help="The tokenizer folder; by default the one beside TOKENS.")
        ] = None,
        layers: Annotated[
            int | None, typer.Option(help="By default as many as the small class takes.")
        ] = None,
        width: Annotated[int | None, typer.Option(help="Features of a token.")] = None,
        heads: Annotated[int | None, typer.Option(help="Attention heads.")] = None,
        context: Annotated[int | None, typer.Option(help="Tokens in a row.")] = None,
        rows: Annotated[int | None, typer.Option(help="Rows in a step.")] = None,
        steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
        learning_rate: Annotated[float | None, typer.Option(help="The highest one.")] = None,
    ) -> None:
        """Write prepared tokens in another trainer's format, with a recipe that runs."""
        from smalltale.errors import FileProblem
        from smalltale.frameworks.exporting import export, small_plan
        from smalltale.frameworks.framework import framework
        from smalltale.tokens.shards import read_tokens

        chosen = framework(name)
        place = tokenizer or tokens.parent / "tokenizer"
        if not place.is_dir():
            raise FileProblem(f"{place} is not a folder; name the tokenizer folder with --tokenizer")
        plan = small_plan(
            read_tokens(tokens).meta["vocabulary"],
            layers=layers,
            width=width,
            heads=heads,
            context=context,
            batch_rows=rows,
            steps=steps,
            learning_rate=learning_rate,
        )
        export(chosen, tokens, place, out, plan)
        say(f"{out}: {chosen.title}, {plan.layers} layers of {plan.width}; go on with {out / 'README.md'}")

    @app.command("import")
    def import_verb(
        checkpoint: Annotated[Path, typer.Argument(help="What the trainer left: a file or folder.")],
        name: Annotated[str, typer.Option("--from", help="A framework's name (smalltale frameworks).")],
        out: Annotated[Path, typer.Option(help="The checkpoint folder to write.")],
        tokenizer: Annotated[
            Path | None, typer.Option(help="The tokenizer folder, where none lies by the checkpoint.")
        ] = None,
        trust: Annotated[
            bool, typer.Option("--trust", help="Open a pickle, tensors and plain values only.")
        ] = False,
    ) -> None:
        """Bring a checkpoint back, to be counted, scored, to write stories and be handed in."""
        from smalltale.frameworks.framework import framework
        from smalltale.frameworks.importing import import_checkpoint

        found = import_checkpoint(framework(name), checkpoint, out, trust=trust, tokenizer=tokenizer)
        fits = f"fits class {found.weight_class}" if found.weight_class else "fits no class"
        logits = (
            "no reference logits to compare"
            if found.reference is None
            else f"largest difference to its own logits {found.reference.difference:.1e}"
        )
        say(f"{out}: {found.counted:,} counted parameters, {fits}; {logits}")


def show_table() -> None:
    """One row a framework."""
    from smalltale.frameworks.framework import every_framework
    from smalltale.frameworks.install import environment, version_of
    from smalltale.frameworks.records import is_stale, record_of

    table = Table("name", "framework", "version", "here", "last proven")
    for each in every_framework():
        found = environment(each)
        state = "no" if found is None else "installed" if found.current else "outdated"
        proof = record_of(each)
        told = (
            "never"
            if proof is None
            else proof.proven_at[:10]
            if proof.passed
            else "FAILED " + proof.proven_at[:10]
        )
        stale = ", stale" if proof and is_stale(each, proof) else ""
        table.add_row(each.name, each.title, version_of(each), state, told + stale)
    Console().print(table)
    say(
        "here: whether its environment is on this machine; no or outdated: smalltale frameworks install NAME\n"
        "stale: its recipe or its list of versions has changed since it was proven"
    )


def show_proofs(proofs: list[Proof]) -> None:
    """Pass or fail, the figures and the message."""
    table = Table(
        "framework", "", "loss", "tokens/s", "ours", "logits", "counted", "bits/byte", "seconds", "message"
    )
    for each in proofs:
        told = each.figures
        loss = f"{told['first_losses']:.2f} → {told['last_losses']:.2f}" if "last_losses" in told else ""
        speed = f"{told['tokens_per_second']:,.0f}" if told.get("tokens_per_second") else ""
        own = f"{told['own_tokens_per_second']:,.0f}"
        logits = f"{told['largest_logit_difference']:.1e}" if "largest_logit_difference" in told else ""
        counted = f"{told['counted_parameters']:,}" if "counted_parameters" in told else ""
        bits = f"{told['bits_per_byte']:.3f}" if "bits_per_byte" in told else ""
        verdict = "pass" if each.passed else "FAIL"
        seconds = f"{each.seconds:.0f}" if each.seconds else ""
        table.add_row(each.name, verdict, loss, speed, own, logits, counted, bits, seconds, each.message)
    Console(width=180).print(table)


def say(text: str) -> None:
    """One line of result."""
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
