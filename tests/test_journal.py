"""A journal keeps every complete line through kills, full disks and second writers."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from smalltale.errors import FileProblem
from smalltale.journal import Journal, read_records


def test_records_are_on_disk_as_soon_as_they_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.jsonl"
    assert read_records(path) == []
    with Journal(path) as journal:
        for number in range(3):
            journal.append({"number": number, "text": "half a character: \ud83d"})
            assert read_records(path)[-1]["number"] == number
        journal.clear()
        journal.append(["after"])
    assert read_records(path) == [["after"]]


def test_a_torn_last_line_is_skipped_by_readers_and_removed_by_the_writer(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2')
    assert read_records(path) == [{"a": 1}]
    with Journal(path) as journal:
        journal.append({"a": 3})
    assert path.read_bytes() == b'{"a": 1}\n{"a": 3}\n'


def test_a_broken_line_is_reported_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(FileProblem, match="line 2 is not JSON; remove that line"):
        read_records(path)


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom smalltale.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\nnumber = 0\n"
        "while True:\n    journal.append({'number': number, 'text': 'x' * 5000})\n    number += 1\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)])
    try:
        while not (path.exists() and path.stat().st_size > 100_000):
            assert writer.poll() is None
            time.sleep(0.01)
        with pytest.raises(FileProblem, match="another run is writing"):
            Journal(path)
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    with Journal(path) as journal:
        journal.append("resumed")
    numbers = [record["number"] for record in read_records(path)[:-1]]
    assert numbers == list(range(len(numbers)))


def test_a_full_disk_leaves_complete_lines(small_disk: Path) -> None:
    path = small_disk / "a.jsonl"
    with Journal(path) as journal, pytest.raises(FileProblem, match="free some space"):
        for number in range(10_000_000):
            journal.append({"number": number, "filler": "x" * 5000})
    assert path.read_bytes().endswith(b"\n")
