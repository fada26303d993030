"""`smalltale tokens`: a corpus in, a tokenizer and token ids out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from smalltale.tokens.sweep import VocabularySweep


def add_to(app: typer.Typer) -> None:
    """Register the verbs of `tokens`."""
    tokens = typer.Typer(
        help="Train or convert a tokenizer, choose its size, encode a corpus.", no_args_is_help=True
    )
    app.add_typer(tokens, name="tokens")

    @tokens.command("train")
    def train(
        corpus: Annotated[Path, typer.Argument(help="A corpus folder.")],
        out: Annotated[Path, typer.Option(help="The tokenizer folder to write.")],
        recipe: Annotated[str, typer.Option(help="A recipe's name or path.")] = "demo",
        set_: Annotated[
            list[str] | None, typer.Option("--set", help="section.key=value, as tokenizer.kind=unigram.")
        ] = None,
    ) -> None:
        """Train a tokenizer on a corpus: byte-level BPE, Unigram or WordPiece."""
        from smalltale.config import load_recipe
        from smalltale.tokens.tokenizer import TokenizerConfig

        loaded = load_recipe(recipe, set_ or [])
        vocabulary = train_corpus_tokenizer(
            corpus, out, loaded.section("tokenizer", TokenizerConfig), loaded.as_dict()
        )
        say(f"{out}: {vocabulary:,} tokens")

    @tokens.command("convert")
    def convert(
        source: Annotated[
            str,
            typer.Argument(help="A folder, tokenizer.json, SentencePiece .model, tiktoken name or Hub id."),
        ],
        out: Annotated[Path, typer.Option(help="The tokenizer folder to write.")],
        end_token: Annotated[
            str | None, typer.Option(help="The end-of-story token; added where the tokenizer lacks it.")
        ] = None,
    ) -> None:
        """Turn any pre-trained tokenizer into a tokenizer folder."""
        from smalltale.files import atomic_folder, provenance_record
        from smalltale.tokens.convert import describe_tokenizer, open_tokenizer

        began = time.monotonic()
        tokenizer = open_tokenizer(source, end_token=end_token)
        with atomic_folder(out) as folder:
            counts = {"vocabulary": tokenizer.vocabulary_size}
            seconds = time.monotonic() - began
            tokenizer.save(
                folder, provenance_record(inputs={"source": source}, counts=counts, seconds=seconds)
            )
        say(f"{out}: {describe_tokenizer(tokenizer)}")

    @tokens.command("encode")
    def encode(
        corpus: Annotated[Path, typer.Argument(help="A corpus folder.")],
        tokenizer: Annotated[Path, typer.Option(help="A tokenizer folder.")],
        out: Annotated[Path, typer.Option(help="The token folder to write.")],
        threads: Annotated[int | None, typer.Option(min=1, help="How many; all cores by default.")] = None,
    ) -> None:
        """Encode a corpus into token files; a stopped run goes on."""
        from smalltale.tokens.encode import encode_corpus

        summary = encode_corpus(corpus, tokenizer, out, threads=threads)
        say(
            f"{out}: {summary.tokens:,} tokens of {summary.stories:,} stories, "
            f"{summary.bytes / max(1, summary.tokens - summary.stories):.2f} bytes a token, "
            f"{summary.seconds:.1f} s ({summary.bytes / 1e6 / summary.seconds:.0f} MB/s)"
        )

    @tokens.command("sweep")
    def sweep_verb(
        corpus: Annotated[Path, typer.Argument(help="A corpus folder.")],
        out: Annotated[Path, typer.Option(help="The folder for sweep.json and sweep.png.")],
        sizes: Annotated[
            str, typer.Option(help="Vocabularies to train, with commas.")
        ] = "1024,2048,4096,8192,16384,32768",
        recipe: Annotated[
            str, typer.Option(help="A recipe's name or path: its [model] is the shape.")
        ] = "demo",
        set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value.")] = None,
    ) -> None:
        """Show what each vocabulary costs and saves in each weight class."""
        from smalltale.config import load_recipe
        from smalltale.errors import RecipeError
        from smalltale.tokens.sweep import ModelShape, sweep_vocabularies
        from smalltale.tokens.tokenizer import TokenizerConfig

        loaded = load_recipe(recipe, set_ or [])
        model = loaded.tables.get("model", {})
        known = {name: model[name] for name in ("layers", "width", "mlp_ratio", "context") if name in model}
        try:
            wanted = sorted({int(size) for size in sizes.split(",")})
        except ValueError as error:
            raise RecipeError(f"--sizes {sizes!r} is not a list of whole numbers, as 1024,4096") from error
        result = sweep_vocabularies(
            corpus,
            wanted,
            loaded.section("tokenizer", TokenizerConfig),
            ModelShape(**known),
            out,
            loaded.as_dict(),
        )
        show_sweep(result)
        say(f"{out}: sweep.json, sweep.png")


def say(text: str) -> None:
    """One line of result."""
    Console().print(text, highlight=False, soft_wrap=True)


def show_sweep(result: VocabularySweep) -> None:
    """A table a weight class."""
    for name in dict.fromkeys(row.weight_class for row in result.rows):
        table = Table(title=f"{name}: recommended {result.recommended[name]:,}")
        for heading in (
            "vocabulary",
            "bytes/token",
            "shape",
            "embedding share",
            "MFLOPs/byte",
            "bytes/context",
        ):
            table.add_column(heading, justify="right")
        for row in result.rows:
            if row.weight_class == name:
                mark = " *" if row.vocabulary == result.recommended[name] else ""
                table.add_row(
                    f"{row.vocabulary:,}{mark}",
                    f"{row.bytes_per_token:.3f}",
                    f"{row.layers} x {row.width}",
                    f"{row.embedding_share:.1%}",
                    f"{row.flops_per_byte / 1e6:.1f}",
                    f"{row.bytes_in_context:,.0f}",
                )
        Console().print(table)


def train_corpus_tokenizer(corpus: Path, out: Path, config: Any, recipe: dict[str, Any]) -> int:
    """Train a tokenizer on a corpus folder's train split into `out`. Returns its vocabulary."""
    from smalltale.corpus.build import read_corpus
    from smalltale.files import atomic_folder, provenance_record, refuse_foreign_folder, sha256_file
    from smalltale.tokens.tokenizer import train_tokenizer

    began = time.monotonic()
    refuse_foreign_folder(out)
    texts = (document.text for document in read_corpus(corpus, "train"))
    tokenizer = train_tokenizer(texts, config)
    with atomic_folder(out) as folder:
        record = provenance_record(
            recipe=recipe,
            inputs={"corpus": sha256_file(corpus / "meta.json")},
            counts={"vocabulary": tokenizer.vocabulary_size},
            seconds=time.monotonic() - began,
        )
        tokenizer.save(folder, record)
    return tokenizer.vocabulary_size
