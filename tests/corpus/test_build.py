"""Building and reading a corpus folder from end to end."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from smalltale.corpus import build, parts
from smalltale.corpus.build import build_corpus
from smalltale.corpus.config import CorpusConfig
from smalltale.corpus.corpus_folder import read_corpus
from smalltale.corpus.fable.generator import generate_stories
from smalltale.corpus.sources import pieces
from smalltale.corpus.steps import shards
from smalltale.errors import FileProblem, RecipeError
from smalltale.files import END_OF_STORY

STORIES = list(generate_stories(1, 120))


def write_stories(path: Path, texts: list[str]) -> str:
    path.write_text(f"\n{END_OF_STORY}\n".join(texts), encoding="utf-8")
    return str(path)


def read_texts(folder: Path, split: Any = "train") -> list[str]:
    return [document.text for document in read_corpus(folder, split)]


def read_dropped(folder: Path) -> list[dict[str, str]]:
    return [
        row
        for path in sorted((folder / "dropped").glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]


def read_parquet_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


def test_a_fable_corpus_splits_and_reads_back(tmp_path: Path) -> None:
    summary = build_corpus(CorpusConfig(stories=300, validation_share=0.1), tmp_path / "corpus")
    train, val = read_texts(tmp_path / "corpus"), read_texts(tmp_path / "corpus", "val")
    assert (len(train), len(val)) == (summary.train_stories, summary.val_stories)
    assert {*train, *val} == set(generate_stories(1, 300))
    assert 10 <= len(val) <= 60
    meta = json.loads((tmp_path / "corpus" / "meta.json").read_text())
    assert meta["kind"] == "corpus"
    assert meta["counts"]["bytes"] == sum(len(text.encode()) for text in train + val)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_a_validation_file_becomes_the_val_split_and_its_leaks_are_dropped_from_train(tmp_path: Path) -> None:
    train = write_stories(
        tmp_path / "train.txt", [*STORIES[:50], STORIES[3].upper(), STORIES[60] + " " + STORIES[4]]
    )
    valid = write_stories(tmp_path / "valid.txt", STORIES[:10])
    build_corpus(CorpusConfig(sources=(train,), validation=valid), tmp_path / "corpus")
    assert read_texts(tmp_path / "corpus", "val") == STORIES[:10]
    assert set(read_texts(tmp_path / "corpus")) == set(STORIES[10:50])
    assert [(row["reason"], row["detail"]) for row in read_dropped(tmp_path / "corpus")].count(
        ("leak", "validation story 4")
    ) == 2
    assert len(read_dropped(tmp_path / "corpus")) == 12


def test_dropped_stories_are_stored_with_their_reason_and_the_kept_copy(tmp_path: Path) -> None:
    long = STORIES[1] + " And that was that."
    source = write_stories(
        tmp_path / "t.txt",
        [STORIES[0], STORIES[1], STORIES[0], long, "Too short.", STORIES[2][:-20], *STORIES[3:40]],
    )
    summary = build_corpus(CorpusConfig(sources=(source,), validation_share=0.2), tmp_path / "corpus")
    assert summary.dropped == {"duplicate": 1, "near-duplicate": 1, "truncated": 1, "very short": 1}
    rows = {row["reason"]: row for row in read_dropped(tmp_path / "corpus")}
    assert rows["near-duplicate"]["text"] == STORIES[1]
    documents = [*read_corpus(tmp_path / "corpus", "train"), *read_corpus(tmp_path / "corpus", "val")]
    text_by_id = {document.id: document.text for document in documents}
    assert text_by_id[rows["near-duplicate"]["detail"]] == long
    assert text_by_id[rows["duplicate"]["detail"]] == STORIES[0]
    assert summary.sources["t.txt"]["read"] == 43 == len(text_by_id) + len(rows)


def test_more_data_keeps_the_split_and_order_of_the_stories(tmp_path: Path) -> None:
    few, many = (
        write_stories(tmp_path / "few.txt", STORIES[:60]),
        write_stories(tmp_path / "many.txt", STORIES[::-1]),
    )
    build_corpus(CorpusConfig(sources=(few,), validation_share=0.2), tmp_path / "a")
    build_corpus(CorpusConfig(sources=(few, many), validation_share=0.2), tmp_path / "b")
    for split in ("train", "val"):
        before = read_texts(tmp_path / "a", split)
        assert [text for text in read_texts(tmp_path / "b", split) if text in set(before)] == before


@pytest.fixture
def many_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 9_000)
    monkeypatch.setattr(pieces, "FABLE_PIECE", 10)


def test_any_number_of_processes_writes_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "FABLE_PIECE", 500)
    config = {"stories": 4_000, "validation_share": 0.05, "shard_bytes": 320_000}
    build_corpus(CorpusConfig(**config, processes=1), tmp_path / "one")  # type: ignore[arg-type]
    build_corpus(CorpusConfig(**config, processes=2), tmp_path / "two")  # type: ignore[arg-type]
    files = read_parquet_bytes(tmp_path / "one")
    assert len(files) == 10 + 1 + 1
    assert files == read_parquet_bytes(tmp_path / "two")


@pytest.mark.usefixtures("many_small_pieces")
def test_a_stopped_build_resumes_and_writes_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CorpusConfig(stories=120, validation_share=0.2, shard_bytes=100_000)
    build_corpus(config, tmp_path / "expected")
    writes: list[str] = []

    def write_or_fail(write: Callable[..., None]) -> Callable[..., None]:
        def wrapped(path: Path, *arguments: Any) -> None:
            writes.append(path.name)
            if len(writes) in (6, 12):
                raise FileProblem(f"{path}: no space left on device")
            write(path, *arguments)

        return wrapped

    monkeypatch.setattr(parts, "write_stories", write_or_fail(parts.write_stories))
    monkeypatch.setattr(shards, "write_table", write_or_fail(shards.write_table))
    for _ in range(2):
        with pytest.raises(FileProblem, match="no space"):
            build_corpus(config, tmp_path / "resumed")
        assert not (tmp_path / "resumed").exists()
    build_corpus(config, tmp_path / "resumed")
    assert len(writes) == 12 + 3 + 2  # 12 parts, one shard each of train, val and dropped, two failures
    assert read_parquet_bytes(tmp_path / "resumed") == read_parquet_bytes(tmp_path / "expected")


def test_a_build_with_another_recipe_does_not_resume_old_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "write_shards", lambda *_: (_ for _ in ()).throw(FileProblem("stop")))
    with pytest.raises(FileProblem, match="stop"):
        build_corpus(CorpusConfig(stories=100, validation_share=0.2), tmp_path / "c")
    monkeypatch.undo()
    build_corpus(CorpusConfig(stories=100, seed=2, validation_share=0.2), tmp_path / "c")
    assert set(read_texts(tmp_path / "c")) < set(generate_stories(2, 100))


@pytest.mark.all
def test_a_killed_build_resumes_from_its_finished_parts(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from smalltale.corpus.build import *; from smalltale.corpus.config import *\n"
        "if __name__ == '__main__': build_corpus(CorpusConfig(stories=120_000, processes=2), Path('c'))"
    )
    script = tmp_path / "build.py"
    script.write_text(code)
    killed = subprocess.Popen([sys.executable, str(script)], cwd=tmp_path, start_new_session=True)
    while len(list(tmp_path.glob(".c.work/part-*.json"))) < 3:
        assert killed.poll() is None
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob(".c.work/part-*.arrow")}
    finished = [path.stem for path in tmp_path.glob(".c.work/part-*.json")]
    resumed = subprocess.Popen([sys.executable, str(script)], cwd=tmp_path)
    while not (tmp_path / ".c.work" / "plan.npz").exists():
        assert resumed.poll() is None
        time.sleep(0.02)
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob(".c.work/part-*.arrow")}
    assert resumed.wait() == 0
    assert all(before[f"{name}.arrow"] == after[f"{name}.arrow"] for name in finished)
    assert len(list(read_corpus(tmp_path / "c", "train"))) > 118_000


def test_a_full_disk_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_disk_full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "write_table", raise_disk_full)
    with pytest.raises(FileProblem, match="No space left on device; free some space"):
        build_corpus(CorpusConfig(stories=100), tmp_path / "corpus")


def test_a_missing_source_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match="does not exist"):
        build_corpus(CorpusConfig(sources=(str(tmp_path / "none.txt"),)), tmp_path / "corpus")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_split_is_an_error_with_the_drop_reasons(tmp_path: Path) -> None:
    source = write_stories(tmp_path / "t.txt", ["Short.", "\0\0\0", "x" * 50])
    with pytest.raises(FileProblem, match=r"3 stories read, 0 are left.*dropped: "):
        build_corpus(CorpusConfig(sources=(source,)), tmp_path / "corpus")


def test_a_folder_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(FileProblem, match="not written by smalltale"):
        build_corpus(CorpusConfig(stories=100), tmp_path)
    (tmp_path / "meta.json").write_text('{"kind": "tokens"}')
    with pytest.raises(FileProblem, match="not a corpus folder"):
        list(read_corpus(tmp_path, "train"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sources", ()),
        ("validation_share", 0.0),
        ("stories", 0),
        ("near_duplicates", 0.2),
        ("leak_words", 3),
        ("temperature", 0.5),
        ("processes", 0),
    ],
)
def test_a_value_out_of_range_names_its_key(key: str, value: object) -> None:
    with pytest.raises(RecipeError, match=f"corpus.{key} is"):
        CorpusConfig(**{key: value})  # type: ignore[arg-type]


def test_the_tinystories_sample_builds_and_its_truncated_stories_are_dropped(
    tmp_path: Path, shared_data: Path
) -> None:
    config = CorpusConfig(
        sources=(str(shared_data / "TinyStories-train.sample.txt"),),
        validation=str(shared_data / "TinyStoriesV2-GPT4-valid.head.txt"),
    )
    summary = build_corpus(config, tmp_path / "corpus")
    assert summary.val_stories == 3000
    assert 11_600 <= summary.train_stories <= 11_700
    raw = (shared_data / "TinyStories-train.sample.txt").read_text(encoding="utf-8")
    last = [story.strip() for story in raw.split(END_OF_STORY) if story.strip()][-50:]
    truncated = {
        row["text"].strip() for row in read_dropped(tmp_path / "corpus") if row["reason"] == "truncated"
    }
    assert set(last) <= truncated


def test_a_story_that_contains_an_evaluation_prompt_is_a_leak(tmp_path: Path) -> None:
    prompts = [" ".join(text.split()[:20]) for text in STORIES[5:8]]
    (tmp_path / "prompts.jsonl").write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in prompts))
    source = write_stories(tmp_path / "t.txt", STORIES[:40])
    build_corpus(
        CorpusConfig(sources=(source,), keep_out=(str(tmp_path / "prompts.jsonl"),), validation_share=0.2),
        tmp_path / "corpus",
    )
    assert {row["text"]: row["detail"] for row in read_dropped(tmp_path / "corpus")} == {
        STORIES[5 + number]: f"prompts.jsonl {number}" for number in range(3)
    }


def test_the_paper_prompts_are_not_in_the_tinystories_sample(tmp_path: Path, shared_data: Path) -> None:
    source = str(shared_data / "TinyStoriesV2-GPT4-valid.head.txt")
    summary = build_corpus(
        CorpusConfig(sources=(source,), keep_out=(str(shared_data / "paper_prompts.yaml"),)),
        tmp_path / "corpus",
    )
    assert summary.dropped.get("leak", 0) == 0
