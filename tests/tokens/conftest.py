"""A small tokenizer and a small corpus for the tests of tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smalltale.corpus.fable.generator import generate_stories
from smalltale.tokens.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer

WriteCorpus = Callable[..., Path]


@pytest.fixture(scope="session")
def fable() -> list[str]:
    return list(generate_stories(1, 400))


@pytest.fixture(scope="session")
def tokenizer(fable: list[str]) -> Tokenizer:
    return train_tokenizer(fable, TokenizerConfig(vocabulary=512))


@pytest.fixture(scope="session")
def tokenizer_folder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder, {"seconds": 0})
    return folder


@pytest.fixture
def write_corpus(tmp_path: Path) -> WriteCorpus:
    """Write a corpus folder like that of `corpus build`."""

    def write(train: Sequence[str], val: Sequence[str] = ("A short tale.",), name: str = "corpus") -> Path:
        folder = tmp_path / name
        (folder / "text").mkdir(parents=True)
        for split, texts in (("train", train), ("val", val)):
            table = pa.table(
                {
                    "text": pa.array(texts, pa.string()),
                    "source": ["test"] * len(texts),
                    "id": [f"test-{i}" for i in range(len(texts))],
                }
            )
            pq.write_table(table, folder / "text" / f"{split}-00000.parquet", row_group_size=100)
        (folder / "meta.json").write_text(json.dumps({"kind": "corpus", "format": 1, "of": len(train)}))
        return folder

    return write
