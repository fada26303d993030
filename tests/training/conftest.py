from __future__ import annotations

from pathlib import Path

import pytest

from smalltale.corpus.build import CorpusConfig, build_corpus, read_corpus
from smalltale.tokens.encode import encode_corpus
from smalltale.tokens.tokenizer import TokenizerConfig, train_tokenizer


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus of 200 fables, a tokenizer and tokens."""
    folder = tmp_path_factory.mktemp("prepared")
    build_corpus(CorpusConfig(stories=200, validation_share=0.1), folder / "corpus")
    texts = (each.text for each in read_corpus(folder / "corpus", "train"))
    train_tokenizer(texts, TokenizerConfig(vocabulary=300)).save(folder / "tokenizer", {"made": "for a test"})
    encode_corpus(folder / "corpus", folder / "tokenizer", folder / "tokens")
    return folder
