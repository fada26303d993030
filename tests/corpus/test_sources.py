"""Sources: every form reads, whatever is cut or broken is dropped with a reason or explained."""

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

from smalltale.corpus import sources, streams
from smalltale.corpus.fable import stories
from smalltale.corpus.sources import Read, find_sources, pieces, read_piece
from smalltale.errors import FileProblem
from smalltale.files import END_OF_STORY

TALES = list(stories(9, 40))
RECORDS = [
    {"story": text, "source": "GPT-4" if i % 2 else "GPT-3.5", "instruction": {"prompt:": "Write"}}
    for i, text in enumerate(TALES)
]


def read_all(place: Path | str, parts: tuple[str, ...] = (), fable: int = 0) -> list[Read]:
    found = find_sources([str(place)], fable)
    return [
        read
        for source in found
        for piece in pieces(source, END_OF_STORY, parts, fable)
        for read in read_piece(piece, END_OF_STORY)
    ]


def marked(texts: list[str]) -> str:
    return f"\n{END_OF_STORY}\n".join(texts)


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_txt(path: Path) -> Path:
    path = path / "t.txt"
    path.write_text(marked(TALES), encoding="utf-8")
    return path


def write_unmarked(path: Path) -> Path:
    path = path / "u.txt"
    path.write_text(
        "\n\n".join("Once upon a time, " + text.replace("\n\n", "\n") for text in TALES), encoding="utf-8"
    )
    return path


def write_jsonl(path: Path) -> Path:
    path = path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, RECORDS)), encoding="utf-8")
    return path


def write_parquet(path: Path) -> Path:
    path = path / "t.parquet"
    pq.write_table(pa.table({"text": TALES}), path, row_group_size=7)
    return path


def write_csv(path: Path) -> Path:
    path = path / "t.csv"
    with path.open("w", encoding="utf-8", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["id", "text"])
        rows.writerows(enumerate(TALES))
    return path


def write_json_gz(path: Path) -> Path:
    path = path / "t.json.gz"
    path.write_bytes(gzip.compress(json.dumps(RECORDS).encode()))
    return path


def write_txt_gz(path: Path) -> Path:
    path = path / "t.txt.gz"
    path.write_bytes(gzip.compress(marked(TALES).encode()))
    return path


def write_tar(path: Path) -> Path:
    halves = {"data/00.json": RECORDS[:20], "data/01.json": RECORDS[20:]}
    return tar_of(path / "t.tar.gz", {name: json.dumps(records).encode() for name, records in halves.items()})


def write_folder(path: Path) -> Path:
    path = path / "folder"
    path.mkdir()
    (path / "a.txt").write_text(marked(TALES[:25]), encoding="utf-8")
    (path / "b.jsonl").write_text("\n".join(map(json.dumps, RECORDS[25:])), encoding="utf-8")
    (path / "ignored.png").write_bytes(b"x")
    return path


FORMS = [
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


@pytest.mark.parametrize("write", FORMS)
@pytest.mark.parametrize("piece_bytes", [8_000_000, 1500])
def test_every_form_gives_every_story_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], Path], piece_bytes: int
) -> None:
    monkeypatch.setattr(sources, "PIECE_BYTES", piece_bytes)
    reads = read_all(write(tmp_path))
    expected = (
        TALES
        if write is not write_unmarked
        else ["Once upon a time, " + text.replace("\n\n", "\n") for text in TALES]
    )
    assert [read.text.strip() for read in reads] == expected
    assert len({read.id for read in reads}) == len(TALES)
    assert not any(read.reason for read in reads)


@pytest.mark.parametrize("size", [300, 977, 4000])
def test_pieces_of_any_size_cut_no_story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(sources, "PIECE_BYTES", size)
    assert [read.text.strip() for read in read_all(write_txt(tmp_path))] == TALES


def test_fable_reads_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "FABLE_PIECE", 7)
    assert [read.text for read in read_all("fable", fable=20)] == list(stories(1, 20))


def test_the_parts_of_the_tar_can_be_chosen(tmp_path: Path) -> None:
    assert [read.text for read in read_all(write_tar(tmp_path), parts=("GPT-4",))] == TALES[1::2]


def test_a_glob_names_files_and_a_short_name_takes_a_local_path(tmp_path: Path) -> None:
    write_folder(tmp_path)
    assert len(read_all(tmp_path / "folder" / "*.txt")) == 25
    assert {each.name for each in find_sources([f"tinystories-v1={write_txt(tmp_path)}"], 0)} == {
        "tinystories-v1"
    }


def test_a_broken_json_line_is_dropped_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(
        json.dumps(RECORDS[0]) + '\n{"text": "cut of\n' + '{"other": 1}\n' + json.dumps(TALES[1]) + "\n\n",
        encoding="utf-8",
    )
    reads = read_all(path)
    assert [read.reason for read in reads] == [None, "broken line", "broken line", None]


def test_a_story_without_end_is_dropped_and_the_rest_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "LONGEST_STORY_BYTES", 20_000)
    monkeypatch.setattr(streams, "LONGEST_STORY_BYTES", 20_000)
    monkeypatch.setattr(streams, "CHUNK", 5_000)
    monkeypatch.setattr(sources, "PIECE_BYTES", 10_000)
    text = marked([TALES[0], "no end " * 60_000, TALES[1]])
    (tmp_path / "t.txt").write_text(text, encoding="utf-8")
    (tmp_path / "t.txt.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("t.txt", "t.txt.gz"):
        reads = read_all(tmp_path / name)
        assert [read.reason for read in reads] == [None, "very long", None], name
        assert len(reads[1].text) <= 30_000


def test_bytes_that_are_no_text_are_dropped_and_windows_1252_is_read(tmp_path: Path) -> None:
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
    assert [(read.text, read.reason) for read in read_all(path)][:2] == [
        ("plain", None),
        ("\u201cHi\u201d", None),
    ]
    assert [read.reason for read in read_all(path)] == [None, None, "not UTF-8", None]


def test_a_path_out_of_a_tar_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    members = {
        "../../evil.json": json.dumps(RECORDS[:2]).encode(),
        "/abs.json": b"[]",
        "ok.json": json.dumps(RECORDS[2:4]).encode(),
    }
    tar = tar_of(tmp_path / "t.tar.gz", members)
    reads = read_all(tar)
    assert [read.reason for read in reads] == ["unsafe path", "unsafe path", None, None]
    assert [each.name for each in tmp_path.iterdir()] == ["t.tar.gz"]


@pytest.mark.parametrize("write", [write_json_gz, write_txt_gz, write_tar, write_parquet])
def test_a_file_that_breaks_off_is_explained(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(FileProblem, match=r"breaks off|not whole|not a whole"):
        read_all(path)


def test_a_json_array_that_breaks_off_gives_what_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps(RECORDS)[:-300], encoding="utf-8")
    reads = read_all(path)
    assert [read.text for read in reads[:-1]] == TALES[:-1]
    assert reads[-1].reason == "broken line"


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "RATIO_COUNTS_FROM", 1_000_000)
    (tmp_path / "t.txt.gz").write_bytes(gzip.compress(b"\0" * 30_000_000))
    with pytest.raises(FileProblem, match="swells"):
        read_all(tmp_path / "t.txt.gz")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", b"", "is empty"),
        ("t.parquet", b"PAR1 no", "not whole Parquet"),
        ("t.csv", b"a,b\n1,2\n", "none of them text"),
        ("t.png", b"x", "no known form"),
    ],
)
def test_a_file_that_cannot_be_a_source_is_explained(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FileProblem, match=message):
        read_all(tmp_path / name)


def test_a_wrong_size_or_checksum_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_txt(tmp_path)
    with pytest.raises(FileProblem, match="2,227,753,162"):
        read_all(f"tinystories-v2={path}")
    origin = sources.Origin(repository="a/b", pattern="x", size=path.stat().st_size, sha256="0" * 64)
    monkeypatch.setitem(sources.PUBLISHED, "mine", origin)
    with pytest.raises(FileProblem, match="SHA-256 differs"):
        read_all(f"mine={path}")


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match="tinystories-v2"):
        read_all(tmp_path / "tinystory")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileProblem, match="no text that can be read"):
        read_all(tmp_path / "empty")
