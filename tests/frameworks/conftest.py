"""Fixture: a small token folder and its tokenizer, the input of every export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from smalltale.corpus.build import build_corpus
from smalltale.corpus.config import CorpusConfig
from smalltale.files import write_json
from smalltale.frameworks.exporting import plan_for_small_class
from smalltale.frameworks.framework import ExportPlan
from smalltale.tokens.encode import encode_corpus
from smalltale.tokens.tokenizer import TokenizerConfig, train_tokenizer


@dataclass(frozen=True)
class Prepared:
    """Tokens, their tokenizer, and a tiny plan."""

    tokens: Path
    tokenizer: Path
    plan: ExportPlan


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    from smalltale.corpus.corpus_folder import read_corpus

    work = tmp_path_factory.mktemp("prepared")
    build_corpus(CorpusConfig(sources=("fable",), stories=200), work / "corpus")
    tokenizer = train_tokenizer(
        (document.text for document in read_corpus(work / "corpus", "train")), TokenizerConfig(vocabulary=400)
    )
    (work / "tokenizer").mkdir()
    tokenizer.save(work / "tokenizer")
    write_json(work / "tokenizer" / "meta.json", {"kind": "tokenizer"})
    encode_corpus(work / "corpus", work / "tokenizer", work / "tokens")
    plan = plan_for_small_class(
        tokenizer.vocabulary_size, layers=2, width=32, heads=2, context=32, batch_rows=4, steps=4
    )
    return Prepared(work / "tokens", work / "tokenizer", plan)
