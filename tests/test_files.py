from __future__ import annotations

from pathlib import Path

import pytest

from smalltale.errors import FileProblem
from smalltale.files import (
    atomic_file,
    atomic_folder,
    provenance_record,
    read_json,
    read_jsonl,
    read_stories,
    read_text,
    sha256_file,
    write_json,
    write_jsonl,
)


def test_a_file_is_written_atomically(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"a": "ü"})
    assert read_json(path) == {"a": "ü"}
    with pytest.raises(RuntimeError), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(path) == {"a": "ü"}
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


def test_a_folder_replaces_only_a_folder_of_smalltale(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number in range(2):
        with atomic_folder(out) as folder:
            write_json(folder / "meta.json", {"number": number})
    assert read_json(out / "meta.json") == {"number": 1}
    with pytest.raises(RuntimeError), atomic_folder(out) as folder:
        raise RuntimeError
    assert read_json(out / "meta.json") == {"number": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "mine.txt").write_text("x")
    with pytest.raises(FileProblem, match="not written by smalltale"), atomic_folder(foreign):
        pass


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b" \n", "is empty"), (b"a\x00b", "binary"), (b"fine\nZo\xeb", "line 2")],
)
def test_unreadable_text_is_reported_with_its_location(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(FileProblem, match=message):
        read_text(path)


def test_stories_are_split_at_marks_and_stripped(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\ufeff A b.\n\nC.\n<|endoftext|>\n\n<|endoftext|> D <|endoftext|>", encoding="utf-8")
    assert read_stories(path) == ["A b.\n\nC.", "D"]
    path.write_text("<|endoftext|>\n")
    with pytest.raises(FileProblem, match="no story"):
        read_stories(path)


def test_an_invalid_json_line_is_reported_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_jsonl(path, [{"a": 1}, "b"])
    assert read_jsonl(path) == [{"a": 1}, "b"]
    path.write_text('{"a": 1}\n{"a"\n')
    with pytest.raises(FileProblem, match="line 2"):
        read_jsonl(path)


def test_a_missing_file_and_a_file_in_place_of_a_folder_are_reported(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match="does not exist"):
        sha256_file(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileProblem, match="is a folder"):
        read_text(tmp_path)
    with pytest.raises(FileProblem), atomic_folder(tmp_path / "file" / "below"):
        pass


def test_a_provenance_record_has_version_commit_inputs_and_counts() -> None:
    record = provenance_record(inputs={"a": "b"}, counts={"c": 1}, seconds=1.23456)
    assert record["seconds"] == 1.235
    assert {"recipe", "smalltale_version", "git_commit", "made_at", "inputs", "counts"} <= record.keys()
