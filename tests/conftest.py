"""Fixtures for several test modules: real stories next to the checkout, a small disk, a prepared corpus."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from smalltale.corpus.build import build_corpus
from smalltale.corpus.config import CorpusConfig
from smalltale.corpus.corpus_folder import read_corpus
from smalltale.tokens.encode import encode_corpus
from smalltale.tokens.tokenizer import TokenizerConfig, train_tokenizer

# Tests run in one process per core; with more threads than cores they would mostly wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real stories next to the checkout; tests that need it are skipped without it."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"{folder} with the real stories is missing")
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 6 MB, which fills up."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6M", "none", str(disk)], capture_output=True
    ).returncode:
        pytest.skip("this user may not mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus of 200 fables, a tokenizer and tokens."""
    folder = tmp_path_factory.mktemp("prepared")
    build_corpus(CorpusConfig(stories=200, validation_share=0.1), folder / "corpus")
    texts = (document.text for document in read_corpus(folder / "corpus", "train"))
    train_tokenizer(texts, TokenizerConfig(vocabulary=300)).save(folder / "tokenizer", {"made": "for a test"})
    encode_corpus(folder / "corpus", folder / "tokenizer", folder / "tokens")
    return folder
