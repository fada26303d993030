"""`smalltale tokens`: train a tokenizer on a corpus and encode the corpus with it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer import Argument, Option

from smalltale.cli.options import Overrides, RecipeOption

if TYPE_CHECKING:
    from smalltale.tokens.vocabulary_sweep import VocabularySweep


def add_to(app: typer.Typer) -> None:
    tokens = typer.Typer(
        help="Train or convert a tokenizer, choose its vocabulary size, encode a corpus.",
        no_args_is_help=True,
    )
    app.add_typer(tokens, name="tokens")
    tokens.command("train")(train)
    tokens.command("convert")(convert)
    tokens.command("encode")(encode)
    tokens.command("sweep")(sweep_command)


def train(
    corpus: Annotated[Path, Argument(help="A corpus folder.")],
    out: Annotated[Path, Option(help="The tokenizer folder to write.")],
    recipe: RecipeOption = "demo",
    set_: Overrides = None,
) -> None:
    """Train a tokenizer on a corpus: byte-level BPE, Unigram or WordPiece."""
    from smalltale.config import load_recipe
    from smalltale.tokens.tokenizer import TokenizerConfig

    loaded = load_recipe(recipe, set_ or [])
    config = loaded.section("tokenizer", TokenizerConfig)
    vocabulary = train_corpus_tokenizer(corpus, out, config, loaded.as_dict())
    typer.echo(f"{out}: {vocabulary:,} tokens")


def convert(
    source: Annotated[str, Argument(help="A folder, tokenizer.json, .model file, tiktoken name or Hub id.")],
    out: Annotated[Path, Option(help="The tokenizer folder to write.")],
    end_token: Annotated[str | None, Option(help="The end-of-story token; added if it is missing.")] = None,
) -> None:
    """Convert a pretrained tokenizer to a tokenizer folder."""
    from smalltale.files import atomic_folder, provenance_record
    from smalltale.tokens.convert import describe_tokenizer, open_tokenizer

    began = time.monotonic()
    tokenizer = open_tokenizer(source, end_token=end_token)
    with atomic_folder(out) as folder:
        counts = {"vocabulary": tokenizer.vocabulary_size}
        seconds = time.monotonic() - began
        tokenizer.save(folder, provenance_record(inputs={"source": source}, counts=counts, seconds=seconds))
    typer.echo(f"{out}: {describe_tokenizer(tokenizer)}")


def encode(
    corpus: Annotated[Path, Argument(help="A corpus folder.")],
    tokenizer: Annotated[Path, Option(help="A tokenizer folder.")],
    out: Annotated[Path, Option(help="The token folder to write.")],
    threads: Annotated[int | None, Option(min=1, help="Number of threads; all cores by default.")] = None,
) -> None:
    """Encode a corpus as token files; a stopped run continues."""
    from smalltale.tokens.encode import encode_corpus

    summary = encode_corpus(corpus, tokenizer, out, threads=threads)
    typer.echo(
        f"{out}: {summary.tokens:,} tokens of {summary.stories:,} stories, "
        f"{summary.bytes / max(1, summary.tokens - summary.stories):.2f} bytes per token, "
        f"{summary.seconds:.1f} s ({summary.bytes / 1e6 / summary.seconds:.0f} MB/s)"
    )


def sweep_command(
    corpus: Annotated[Path, Argument(help="A corpus folder.")],
    out: Annotated[Path, Option(help="The folder for sweep.json and sweep.png.")],
    sizes: Annotated[
        str, Option(help="Vocabulary sizes, separated by commas.")
    ] = "1024,2048,4096,8192,16384,32768",
    recipe: Annotated[str, Option(help="A recipe's name or path; gives the model shape.")] = "demo",
    set_: Overrides = None,
) -> None:
    """Compare the cost and the compression of vocabulary sizes in each weight class."""
    from smalltale.config import load_recipe
    from smalltale.errors import RecipeError
    from smalltale.tokens.tokenizer import TokenizerConfig
    from smalltale.tokens.vocabulary_sweep import ModelShape, sweep_vocabularies

    loaded = load_recipe(recipe, set_ or [])
    model = loaded.tables.get("model", {})
    shape = {name: model[name] for name in ("layers", "width", "mlp_ratio", "context") if name in model}
    try:
        vocabulary_sizes = sorted({int(size) for size in sizes.split(",")})
    except ValueError as error:
        raise RecipeError(f"--sizes {sizes!r} is not a list of integers; write, say, 1024,4096") from error
    result = sweep_vocabularies(
        corpus,
        vocabulary_sizes,
        loaded.section("tokenizer", TokenizerConfig),
        ModelShape(**shape),
        out,
        loaded.as_dict(),
    )
    show_sweep(result)
    typer.echo(f"{out}: sweep.json, sweep.png")


def show_sweep(result: VocabularySweep) -> None:
    """Print a table per weight class."""
    for name in dict.fromkeys(row.weight_class for row in result.rows):
        table = Table(title=f"{name}: recommended {result.recommended[name]:,}")
        headings = ("vocabulary", "bytes/token", "shape", "embedding share", "MFLOPs/byte", "bytes/context")
        for heading in headings:
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
    """Train a tokenizer on the train split of a corpus folder and save it in `out`. Returns its vocabulary size."""
    from smalltale.corpus.corpus_folder import read_corpus
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
