"""`smalltale tokens`: a corpus in, a tokenizer and token ids out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console


def add_to(app: typer.Typer) -> None:
    """Register `tokens train` and `tokens encode`."""
    tokens = typer.Typer(help="Train a tokenizer, encode a corpus.", no_args_is_help=True)
    app.add_typer(tokens, name="tokens")

    @tokens.command("train")
    def train(
        corpus: Annotated[Path, typer.Argument(help="A corpus folder.")],
        out: Annotated[Path, typer.Option(help="The tokenizer folder to write.")],
        recipe: Annotated[str, typer.Option(help="A recipe's name or path.")] = "demo",
        set_: Annotated[list[str] | None, typer.Option("--set", help="section.key=value.")] = None,
    ) -> None:
        """Train a byte-level BPE on a corpus."""
        from smalltale.recipe import load_recipe
        from smalltale.tokens.tokenizer import TokenizerConfig

        loaded = load_recipe(recipe, set_ or [])
        vocabulary = train_on_corpus(
            corpus, out, loaded.section("tokenizer", TokenizerConfig), loaded.as_dict()
        )
        Console().print(f"{out}: {vocabulary:,} tokens", highlight=False, soft_wrap=True)

    @tokens.command("encode")
    def encode(
        corpus: Annotated[Path, typer.Argument(help="A corpus folder.")],
        tokenizer: Annotated[Path, typer.Option(help="A tokenizer folder.")],
        out: Annotated[Path, typer.Option(help="The token folder to write.")],
    ) -> None:
        """Encode a corpus into token files."""
        from smalltale.tokens.encode import encode_corpus

        summary = encode_corpus(corpus, tokenizer, out)
        Console().print(
            f"{out}: {summary.tokens:,} tokens of {summary.stories:,} stories, "
            f"{summary.bytes / max(1, summary.tokens - summary.stories):.2f} bytes a token, {summary.seconds:.1f} s",
            highlight=False,
            soft_wrap=True,
        )


def train_on_corpus(corpus: Path, out: Path, config: Any, recipe: dict[str, Any]) -> int:
    """Train a tokenizer on a corpus folder's train split into `out`. Returns its vocabulary."""
    from smalltale.corpus.build import read_corpus
    from smalltale.files import new_folder, provenance, sha256_of
    from smalltale.tokens.tokenizer import train_tokenizer

    began = time.monotonic()
    texts = (document.text for document in read_corpus(corpus, "train"))
    tokenizer = train_tokenizer(texts, config)
    with new_folder(out) as folder:
        record = provenance(
            recipe=recipe,
            inputs={"corpus": sha256_of(corpus / "meta.json")},
            counts={"vocabulary": tokenizer.vocabulary},
            seconds=time.monotonic() - began,
        )
        tokenizer.save(folder, record)
    return tokenizer.vocabulary
