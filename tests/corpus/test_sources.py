"""Sources: every format is read; broken data is dropped with a reason or is an error with advice."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from smalltale.corpus.document import SourceDocument
from smalltale.corpus.fable.generator import generate_stories
from smalltale.corpus.sources import catalog, pieces, streaming
from smalltale.corpus.sources.catalog import find_sources
from smalltale.corpus.sources.pieces import read_piece, split_source
from smalltale.errors import FileProblem
from smalltale.files import END_OF_STORY

STORIES = list(generate_stories(9, 40))
RECORDS = [
    {"story": text, "source": "GPT-4" if i % 2 else "GPT-3.5", "instruction": {"prompt:": "Write"}}
    for i, text in enumerate(STORIES)
]


def read_all(name: Path | str, tar_parts: tuple[str, ...] = (), fable: int = 0) -> list[SourceDocument]:
    return [
        document
        for source in find_sources([str(name)], fable)
        for piece in split_source(source, END_OF_STORY, tar_parts, fable)
        for document in read_piece(piece, END_OF_STORY)
    ]


def join_stories(texts: list[str]) -> str:
    return f"\n{END_OF_STORY}\n".join(texts)


def write_archive(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_txt(path: Path) -> Path:
    path = path / "t.txt"
    path.write_text(join_stories(STORIES), encoding="utf-8")
    return path


def write_unmarked(path: Path) -> Path:
    path = path / "u.txt"
    path.write_text(
        "\n\n".join("Once upon a time, " + text.replace("\n\n", "\n") for text in STORIES), encoding="utf-8"
    )
    return path


def write_jsonl(path: Path) -> Path:
    path = path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, RECORDS)), encoding="utf-8")
    return path


def write_parquet(path: Path) -> Path:
    path = path / "t.parquet"
    pq.write_table(pa.table({"text": STORIES}), path, row_group_size=7)
    return path


def write_csv(path: Path) -> Path:
    path = path / "t.csv"
    with path.open("w", encoding="utf-8", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["id", "text"])
        rows.writerows(enumerate(STORIES))
    return path


def write_json_gz(path: Path) -> Path:
    path = path / "t.json.gz"
    path.write_bytes(gzip.compress(json.dumps(RECORDS).encode()))
    return path


def write_txt_gz(path: Path) -> Path:
    path = path / "t.txt.gz"
    path.write_bytes(gzip.compress(join_stories(STORIES).encode()))
    return path


def write_tar(path: Path) -> Path:
    halves = {"data/00.json": RECORDS[:20], "data/01.json": RECORDS[20:]}
    return write_archive(
        path / "t.tar.gz", {name: json.dumps(records).encode() for name, records in halves.items()}
    )


def write_folder(path: Path) -> Path:
    path = path / "folder"
    path.mkdir()
    (path / "a.txt").write_text(join_stories(STORIES[:25]), encoding="utf-8")
    (path / "b.jsonl").write_text("\n".join(map(json.dumps, RECORDS[25:])), encoding="utf-8")
    (path / "ignored.png").write_bytes(b"x")
    return path


WRITERS = [
    write_txt,
    write_unmarked,
    write_jsonl,
    write_parquet,
    write_csv,
    write_json_gz,
    write_txt_gz,
    write_tar,
    write_folder,
]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("piece_bytes", [8_000_000, 1500])
def test_every_format_gives_every_story_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], Path], piece_bytes: int
) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", piece_bytes)
    documents = read_all(write(tmp_path))
    expected = (
        STORIES
        if write is not write_unmarked
        else ["Once upon a time, " + text.replace("\n\n", "\n") for text in STORIES]
    )
    assert [document.text.strip() for document in documents] == expected
    assert len({document.id for document in documents}) == len(STORIES)
    assert not any(document.reason for document in documents)


@pytest.mark.parametrize("size", [300, 977, 4000])
def test_pieces_of_any_size_split_no_story(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", size)
    assert [document.text.strip() for document in read_all(write_txt(tmp_path))] == STORIES


def test_fable_gives_the_same_stories_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "FABLE_PIECE", 7)
    assert [document.text for document in read_all("fable", fable=20)] == list(generate_stories(1, 20))


def test_the_parts_of_the_tar_can_be_chosen(tmp_path: Path) -> None:
    assert [document.text for document in read_all(write_tar(tmp_path), tar_parts=("GPT-4",))] == STORIES[
        1::2
    ]


def test_a_glob_names_files_and_a_short_name_takes_a_local_path(tmp_path: Path) -> None:
    write_folder(tmp_path)
    assert len(read_all(tmp_path / "folder" / "*.txt")) == 25
    assert {source.name for source in find_sources([f"tinystories-v1={write_txt(tmp_path)}"], 0)} == {
        "tinystories-v1"
    }


def test_a_broken_json_line_is_dropped_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(
        json.dumps(RECORDS[0]) + '\n{"text": "cut of\n' + '{"other": 1}\n' + json.dumps(STORIES[1]) + "\n\n",
        encoding="utf-8",
    )
    documents = read_all(path)
    assert [document.reason for document in documents] == [None, "broken line", "broken line", None]


def test_a_story_without_end_is_dropped_and_the_following_ones_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "LONGEST_STORY_BYTES", 20_000)
    monkeypatch.setattr(streaming, "LONGEST_STORY_BYTES", 20_000)
    monkeypatch.setattr(streaming, "CHUNK", 5_000)
    monkeypatch.setattr(pieces, "PIECE_BYTES", 10_000)
    text = join_stories([STORIES[0], "no end " * 60_000, STORIES[1]])
    (tmp_path / "t.txt").write_text(text, encoding="utf-8")
    (tmp_path / "t.txt.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("t.txt", "t.txt.gz"):
        documents = read_all(tmp_path / name)
        assert [document.reason for document in documents] == [None, "very long", None], name
        assert len(documents[1].text) <= 30_000


def test_binary_data_is_dropped_and_windows_1252_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    mark = END_OF_STORY.encode()
    path.write_bytes(
        b"plain"
        + mark
        + "\u201cHi\u201d".encode("cp1252")
        + mark
        + b"\x81\x8d\x8f"
        + mark
        + "\ufeffZoë".encode()
    )
    assert [(document.text, document.reason) for document in read_all(path)][:2] == [
        ("plain", None),
        ("\u201cHi\u201d", None),
    ]
    assert [document.reason for document in read_all(path)] == [None, None, "not UTF-8", None]


def test_an_unsafe_path_in_a_tar_is_refused_and_no_file_is_written(tmp_path: Path) -> None:
    members = {
        "../../evil.json": json.dumps(RECORDS[:2]).encode(),
        "/abs.json": b"[]",
        "ok.json": json.dumps(RECORDS[2:4]).encode(),
    }
    tar = write_archive(tmp_path / "t.tar.gz", members)
    documents = read_all(tar)
    assert [document.reason for document in documents] == ["unsafe path", "unsafe path", None, None]
    assert [path.name for path in tmp_path.iterdir()] == ["t.tar.gz"]


@pytest.mark.parametrize("write", [write_json_gz, write_txt_gz, write_tar, write_parquet])
def test_a_truncated_file_is_an_error(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(FileProblem, match=r"is truncated|not a complete|cannot be read"):
        read_all(path)


def test_a_truncated_json_array_gives_its_complete_values(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps(RECORDS)[:-300], encoding="utf-8")
    documents = read_all(path)
    assert [document.text for document in documents[:-1]] == STORIES[:-1]
    assert documents[-1].reason == "broken line"


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "RATIO_COUNTS_FROM", 1_000_000)
    (tmp_path / "t.txt.gz").write_bytes(gzip.compress(b"\0" * 30_000_000))
    with pytest.raises(FileProblem, match="expands to more than"):
        read_all(tmp_path / "t.txt.gz")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", b"", "is empty"),
        ("t.parquet", b"PAR1 no", "not a complete Parquet file"),
        ("t.csv", b"a,b\n1,2\n", "none of them text"),
        ("t.png", b"x", "unsupported file type"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FileProblem, match=message):
        read_all(tmp_path / name)


def test_a_wrong_size_or_checksum_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_txt(tmp_path)
    with pytest.raises(FileProblem, match="2,227,753,162"):
        read_all(f"tinystories-v2={path}")
    published = catalog.PublishedFile(
        repository="a/b", pattern="x", size=path.stat().st_size, sha256="0" * 64
    )
    monkeypatch.setitem(catalog.PUBLISHED, "mine", published)
    with pytest.raises(FileProblem, match="SHA-256 differs"):
        read_all(f"mine={path}")


def test_an_unknown_name_lists_the_short_names(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match="tinystories-v2"):
        read_all(tmp_path / "tinystory")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileProblem, match="has no text file"):
        read_all(tmp_path / "empty")
