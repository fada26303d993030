"""A corpus folder from end to end."""

from __future__ import annotations

from pathlib import Path

import pytest

from smalltale.corpus.build import CorpusConfig, build_corpus, read_corpus
from smalltale.corpus.fable import stories
from smalltale.errors import FileProblem


def test_a_fable_corpus_splits_and_reads_back(tmp_path: Path) -> None:
    summary = build_corpus(CorpusConfig(stories=300, validation_share=0.1), tmp_path / "corpus")
    train, val = (
        list(read_corpus(tmp_path / "corpus", "train")),
        list(read_corpus(tmp_path / "corpus", "val")),
    )
    assert (len(train), len(val)) == (summary.train_stories, summary.val_stories)
    assert {each.text for each in train + val} == set(stories(1, 300))
    assert 10 <= len(val) <= 60


def test_a_validation_file_is_the_val_split_and_none_of_it_stays_in_train(tmp_path: Path) -> None:
    texts = list(stories(1, 50))
    (tmp_path / "train.txt").write_text("\n<|endoftext|>\n".join(texts), encoding="utf-8")
    (tmp_path / "valid.txt").write_text("\n<|endoftext|>\n".join(texts[:10]), encoding="utf-8")
    config = CorpusConfig(sources=(str(tmp_path / "train.txt"),), validation=str(tmp_path / "valid.txt"))
    build_corpus(config, tmp_path / "corpus")
    assert [each.text for each in read_corpus(tmp_path / "corpus", "val")] == texts[:10]
    assert {each.text for each in read_corpus(tmp_path / "corpus", "train")} == set(texts[10:])


def test_a_missing_source_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match="does not exist"):
        build_corpus(CorpusConfig(sources=(str(tmp_path / "none.txt"),)), tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()
