"""A corpus folder from end to end."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from smalltale.corpus import assemble, prepare, sources
from smalltale.corpus.build import CorpusConfig, build_corpus, read_corpus
from smalltale.corpus.fable import stories
from smalltale.errors import FileProblem, RecipeError
from smalltale.files import END_OF_STORY

TALES = list(stories(1, 120))


def write(path: Path, texts: list[str]) -> str:
    path.write_text(f"\n{END_OF_STORY}\n".join(texts), encoding="utf-8")
    return str(path)


def texts_of(folder: Path, split: Any = "train") -> list[str]:
    return [each.text for each in read_corpus(folder, split)]


def dropped(folder: Path) -> list[dict[str, str]]:
    return [
        row
        for path in sorted((folder / "dropped").glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


def test_a_fable_corpus_splits_and_reads_back(tmp_path: Path) -> None:
    summary = build_corpus(CorpusConfig(stories=300, validation_share=0.1), tmp_path / "corpus")
    train, val = texts_of(tmp_path / "corpus"), texts_of(tmp_path / "corpus", "val")
    assert (len(train), len(val)) == (summary.train_stories, summary.val_stories)
    assert {*train, *val} == set(stories(1, 300))
    assert 10 <= len(val) <= 60
    meta = json.loads((tmp_path / "corpus" / "meta.json").read_text())
    assert meta["kind"] == "corpus"
    assert meta["counts"]["bytes"] == sum(len(text.encode()) for text in train + val)
    assert [each.name for each in tmp_path.iterdir()] == ["corpus"]


def test_a_validation_file_is_the_val_split_and_none_of_it_stays_in_train(tmp_path: Path) -> None:
    train = write(tmp_path / "train.txt", [*TALES[:50], TALES[3].upper(), TALES[60] + " " + TALES[4]])
    valid = write(tmp_path / "valid.txt", TALES[:10])
    build_corpus(CorpusConfig(sources=(train,), validation=valid), tmp_path / "corpus")
    assert texts_of(tmp_path / "corpus", "val") == TALES[:10]
    assert set(texts_of(tmp_path / "corpus")) == set(TALES[10:50])
    assert [(row["reason"], row["detail"]) for row in dropped(tmp_path / "corpus")].count(
        ("leak", "validation story 4")
    ) == 2
    assert len(dropped(tmp_path / "corpus")) == 12


def test_what_is_dropped_is_kept_with_its_reason_and_the_copy_that_stays(tmp_path: Path) -> None:
    long = TALES[1] + " And that was that."
    source = write(
        tmp_path / "t.txt", [TALES[0], TALES[1], TALES[0], long, "Too short.", TALES[2][:-20], *TALES[3:40]]
    )
    summary = build_corpus(CorpusConfig(sources=(source,), validation_share=0.2), tmp_path / "corpus")
    assert summary.dropped == {"duplicate": 1, "near-duplicate": 1, "truncated": 1, "very short": 1}
    rows = {row["reason"]: row for row in dropped(tmp_path / "corpus")}
    assert rows["near-duplicate"]["text"] == TALES[1]
    kept = {
        each.id: each.text for split in ("train", "val") for each in read_corpus(tmp_path / "corpus", split)
    }  # type: ignore[arg-type]
    assert kept[rows["near-duplicate"]["detail"]] == long
    assert kept[rows["duplicate"]["detail"]] == TALES[0]
    assert summary.sources["t.txt"]["read"] == 43 == len(kept) + len(rows)


def test_more_data_moves_no_story_across_the_split_nor_changes_the_order_of_the_rest(tmp_path: Path) -> None:
    few, many = write(tmp_path / "few.txt", TALES[:60]), write(tmp_path / "many.txt", TALES[::-1])
    build_corpus(CorpusConfig(sources=(few,), validation_share=0.2), tmp_path / "a")
    build_corpus(CorpusConfig(sources=(few, many), validation_share=0.2), tmp_path / "b")
    for split in ("train", "val"):
        before = texts_of(tmp_path / "a", split)
        assert [text for text in texts_of(tmp_path / "b", split) if text in set(before)] == before


@pytest.fixture
def many_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PIECE_BYTES", 9_000)
    monkeypatch.setattr(sources, "FABLE_PIECE", 10)


def test_any_number_of_processes_writes_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "FABLE_PIECE", 500)
    config = {"stories": 4_000, "validation_share": 0.05, "shard_bytes": 320_000}
    build_corpus(CorpusConfig(**config, processes=1), tmp_path / "one")  # type: ignore[arg-type]
    build_corpus(CorpusConfig(**config, processes=2), tmp_path / "two")  # type: ignore[arg-type]
    one = bytes_of(tmp_path / "one")
    assert len(one) == 10 + 1 + 1
    assert one == bytes_of(tmp_path / "two")


@pytest.mark.usefixtures("many_small_pieces")
def test_a_build_that_stopped_goes_on_and_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CorpusConfig(stories=120, validation_share=0.2, shard_bytes=100_000)
    build_corpus(config, tmp_path / "whole")
    made: list[int] = []
    write_part, write_table = prepare.write_part, assemble.write_table

    def full(path: Path, *arguments: Any) -> None:
        made.append(0)
        if len(made) in (6, 12):
            raise FileProblem(f"{path}: no space left on device")
        (write_table if path.suffix == ".parquet" else write_part)(path, *arguments)

    monkeypatch.setattr(
        prepare, "write_part", lambda stem, *rest, **named: full(stem, *rest, *named.values())
    )
    monkeypatch.setattr(assemble, "write_table", full)
    for _ in range(2):
        with pytest.raises(FileProblem, match="no space"):
            build_corpus(config, tmp_path / "parts")
        assert not (tmp_path / "parts").exists()
    build_corpus(config, tmp_path / "parts")
    assert len(made) == 12 + 3 + 2  # 12 parts, 1 val and 1 dropped and 1 train shard, two broken off
    assert bytes_of(tmp_path / "parts") == bytes_of(tmp_path / "whole")


def test_another_recipe_does_not_go_on_with_old_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assemble, "write_shards", lambda *_: (_ for _ in ()).throw(FileProblem("stop")))
    with pytest.raises(FileProblem, match="stop"):
        build_corpus(CorpusConfig(stories=100, validation_share=0.2), tmp_path / "c")
    monkeypatch.undo()
    build_corpus(CorpusConfig(stories=100, seed=2, validation_share=0.2), tmp_path / "c")
    assert set(texts_of(tmp_path / "c")) < set(stories(2, 100))


@pytest.mark.all
def test_a_killed_build_goes_on_from_its_finished_parts(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from smalltale.corpus.build import *\n"
        "if __name__ == '__main__': build_corpus(CorpusConfig(stories=120_000, processes=2), Path('c'))"
    )
    script = tmp_path / "build.py"
    script.write_text(code)
    build = subprocess.Popen([sys.executable, str(script)], cwd=tmp_path, start_new_session=True)
    while len(list(tmp_path.glob(".c.work/part-*.json"))) < 3:
        assert build.poll() is None
        time.sleep(0.05)
    os.killpg(build.pid, signal.SIGKILL)
    build.wait()
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob(".c.work/part-*.arrow")}
    finished = [path.stem for path in tmp_path.glob(".c.work/part-*.json")]
    watched = subprocess.Popen([sys.executable, str(script)], cwd=tmp_path)
    while not (tmp_path / ".c.work" / "plan.npz").exists():
        assert watched.poll() is None
        time.sleep(0.02)
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob(".c.work/part-*.arrow")}
    assert watched.wait() == 0
    assert all(before[f"{name}.arrow"] == after[f"{name}.arrow"] for name in finished)
    assert len(list(read_corpus(tmp_path / "c", "train"))) > 118_000


def test_a_full_disk_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(FileProblem, match="No space left on device; free some space"):
        build_corpus(CorpusConfig(stories=100), tmp_path / "corpus")


def test_a_missing_source_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match="does not exist"):
        build_corpus(CorpusConfig(sources=(str(tmp_path / "none.txt"),)), tmp_path / "corpus")
    assert list(tmp_path.iterdir()) == []


def test_a_source_of_which_nothing_is_left_says_why(tmp_path: Path) -> None:
    source = write(tmp_path / "t.txt", ["Short.", "\0\0\0", "x" * 50])
    with pytest.raises(FileProblem, match=r"3 stories read, 0 are left.*dropped: "):
        build_corpus(CorpusConfig(sources=(source,)), tmp_path / "corpus")


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
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


def test_the_real_sample_builds_and_its_cut_stories_are_dropped(tmp_path: Path, shared_data: Path) -> None:
    config = CorpusConfig(
        sources=(str(shared_data / "TinyStories-train.sample.txt"),),
        validation=str(shared_data / "TinyStoriesV2-GPT4-valid.head.txt"),
    )
    summary = build_corpus(config, tmp_path / "corpus")
    assert summary.val_stories == 3000
    assert 11_600 <= summary.train_stories <= 11_700
    raw = (shared_data / "TinyStories-train.sample.txt").read_text(encoding="utf-8")
    last = [story.strip() for story in raw.split(END_OF_STORY) if story.strip()][-50:]
    cut = {row["text"].strip() for row in dropped(tmp_path / "corpus") if row["reason"] == "truncated"}
    assert set(last) <= cut


def test_a_story_that_holds_an_evaluation_prompt_is_a_leak(tmp_path: Path) -> None:
    prompts = [" ".join(text.split()[:20]) for text in TALES[5:8]]
    (tmp_path / "prompts.jsonl").write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in prompts))
    source = write(tmp_path / "t.txt", TALES[:40])
    build_corpus(
        CorpusConfig(sources=(source,), keep_out=(str(tmp_path / "prompts.jsonl"),), validation_share=0.2),
        tmp_path / "corpus",
    )
    assert {row["text"]: row["detail"] for row in dropped(tmp_path / "corpus")} == {
        TALES[5 + number]: f"prompts.jsonl {number}" for number in range(3)
    }


def test_the_paper_prompts_are_not_in_the_real_sample(tmp_path: Path, shared_data: Path) -> None:
    source = str(shared_data / "TinyStoriesV2-GPT4-valid.head.txt")
    summary = build_corpus(
        CorpusConfig(sources=(source,), keep_out=(str(shared_data / "paper_prompts.yaml"),)),
        tmp_path / "corpus",
    )
    assert summary.dropped.get("leak", 0) == 0
