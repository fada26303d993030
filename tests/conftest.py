"""What several tests share: real text where it lies beside the checkout, and small real things."""

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

# Tests run side by side, a process a core; with more threads than cores they wait for each other most of their time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real stories beside the checkout; a test that needs it skips where it is missing."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real stories are not at hand: {folder} is missing")
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 6 MB, so that it really fills."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6M", "none", str(place)], capture_output=True
    ).returncode:
        pytest.skip("this user may not mount a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus of 200 fables, a tokenizer and tokens."""
    folder = tmp_path_factory.mktemp("prepared")
    build_corpus(CorpusConfig(stories=200, validation_share=0.1), folder / "corpus")
    texts = (each.text for each in read_corpus(folder / "corpus", "train"))
    train_tokenizer(texts, TokenizerConfig(vocabulary=300)).save(folder / "tokenizer", {"made": "for a test"})
    encode_corpus(folder / "corpus", folder / "tokenizer", folder / "tokens")
    return folder
