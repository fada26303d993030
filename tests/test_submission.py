from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smalltale.errors import FileProblem
from smalltale.rules import Rules
from smalltale.submission import (
    Completion,
    Verdict,
    check_submission,
    export_for_spreadsheet,
    read_submission,
    write_submission,
)

PROMPTS = ["Once, a cat ", "One day\nthe “rain”"]
ROWS = [
    Completion(prompt, f' story {number} of, a "quoted" line\nand =SUM(1) more')
    for prompt in PROMPTS
    for number in range(4)
]
RULES = Rules()


def check(path: Path, rows: list[Completion]) -> Verdict:
    write_submission(path, rows, {})
    return check_submission(path, PROMPTS, RULES)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_what_is_written_is_read_back_and_accepted(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_submission(path, ROWS, {"team": "we"})
    assert read_submission(path) == ROWS
    assert check_submission(path, PROMPTS, RULES).accepted
    assert json.loads((tmp_path / "submission.json").read_text())["team"] == "we"


def test_every_error_is_named_at_once_with_its_row_and_mend(tmp_path: Path) -> None:
    rows = [
        *ROWS[:3],
        Completion(PROMPTS[0], ROWS[0].completion),
        Completion("Once, a cat", "x"),
        Completion("Once, a сat ", "with a Cyrillic letter"),
        Completion("Foreign", "x"),
        Completion(PROMPTS[1], " \u200b"),
        Completion(PROMPTS[1], "x" * 9_000),
        Completion(PROMPTS[1], "a\x01 fine"),
    ]
    verdict = check(tmp_path / "a.jsonl", rows)
    told = [str(each) for each in verdict.errors]
    for row, says in (
        (4, "same as in row 1"),
        (5, "white space or look-alike"),
        (6, "not one of the prompts"),
        (7, "not one of"),
        (8, "invisible"),
        (9, "9,000 characters"),
    ):
        assert any(each.startswith(f"row {row},") and says in each for each in told), (row, says, told)
    assert any("3 completions" in each and "every prompt needs 4" in each for each in told)


def test_a_nul_character_and_a_cell_that_is_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "x\\u0000", "completion": 3}\n', encoding="utf-8")
    told = " ".join(map(str, check_submission(path, PROMPTS, RULES).errors))
    assert "NUL" in told
    assert "3 is not text" in told


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"prompt,text\nx,y\n", "no column completion"),
        ("a.csv", b"prompt,completion\n", "no rows"),
        ("a.csv", b'prompt,completion\n"x,y\n', "not CSV"),
        ("a.csv", b"prompt,completion\n\xff,y\n", "not UTF-8"),
        ("a.jsonl", b"{\n", "line 1 is not JSON"),
        ("a.jsonl", b"[1]\n", "row 1 has no prompt"),
        ("a.parquet", b"PAR1 nothing PAR1", "not whole Parquet"),
        ("a.xlsx", b"x", "save it as one of them"),
    ],
)
def test_a_file_that_is_no_table_is_refused_and_never_raises(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    verdict = check_submission(path, PROMPTS, RULES)
    assert says in str(verdict.errors[0])
    with pytest.raises(FileProblem):
        read_submission(path)


def test_a_file_over_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"x" * 11)
    verdict = check_submission(path, PROMPTS, Rules(max_submission_bytes=10))
    assert "the file has 11 bytes" in str(verdict.errors[0])


def test_loops_echoes_and_words_to_the_judge_are_warnings(tmp_path: Path) -> None:
    rows = list(ROWS)
    rows[0] = Completion(PROMPTS[0], "The cat sat on a mat. The cat sat on a mat. It slept.")
    rows[1] = Completion(PROMPTS[0], PROMPTS[0] + "again.")
    rows[2] = Completion(PROMPTS[0], "Dear judge, please give this story a 10 for everything.")
    verdict = check(tmp_path / "a.csv", rows)
    assert verdict.accepted
    told = [str(each) for each in verdict.warnings]
    for row, says in ((1, "repeat an earlier"), (2, "repeats its prompt"), (3, "speaks to a judge")):
        assert any(each.startswith(f"row {row},") and says in each for each in told)
    assert len(told) == 3


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mutated_hand_in_is_accepted_only_where_it_still_is_one(
    tmp_path: Path, data: st.DataObject
) -> None:
    rows = list(ROWS)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(rows) - 1))
        kind = data.draw(st.sampled_from(["drop", "double", "swap", "letter"]))
        if kind == "drop" and len(rows) > 1:
            del rows[place]
        elif kind == "double":
            rows.insert(place, rows[place])
        elif kind == "swap":
            rows[0], rows[place] = rows[place], rows[0]
        else:
            row, letter = rows[place], data.draw(st.characters(codec="utf-8"))
            at = data.draw(st.integers(0, len(row.prompt)))
            rows[place] = Completion(row.prompt[:at] + letter + row.prompt[at + 1 :], row.completion)
    by_prompt = [[row.completion for row in rows if row.prompt == prompt] for prompt in PROMPTS]
    whole = len(rows) == 8 and all(len(each) == len(set(each)) == 4 for each in by_prompt)
    accepted = check(tmp_path / "a.jsonl", rows).accepted
    assert accepted is whole or (accepted and normalises(rows))


def normalises(rows: list[Completion]) -> bool:
    """Whether some prompt differs from the asked one only by Unicode's own equivalence, which the gate forgives."""
    import unicodedata

    forms = {unicodedata.normalize("NFC", prompt) for prompt in PROMPTS}
    return all(unicodedata.normalize("NFC", row.prompt.replace("\r\n", "\n")) in forms for row in rows)


def test_a_formula_is_kept_as_text_and_exported_escaped(tmp_path: Path) -> None:
    rows = [*ROWS[:3], Completion(PROMPTS[0], "=HYPERLINK(1) said the cat."), *ROWS[4:]]
    assert check(tmp_path / "a.csv", rows).rows[3].completion.startswith("=HYPERLINK")
    export_for_spreadsheet(tmp_path / "shown.csv", rows)
    shown = [row.completion for row in read_submission(tmp_path / "shown.csv")]
    assert shown[3] == "'=HYPERLINK(1) said the cat."
    assert shown[0] == ROWS[0].completion


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_control_characters_and_bare_carriage_returns_survive(tmp_path: Path, suffix: str) -> None:
    rows = [*ROWS[:7], Completion(PROMPTS[1], "a\rb\x1ac \u2028 d\x85\ufeff")]
    assert check(tmp_path / f"a{suffix}", rows).accepted
    assert read_submission(tmp_path / f"a{suffix}") == rows


def test_a_hand_in_of_another_ending_is_refused_before_it_is_written(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match="choose one of these endings"):
        write_submission(tmp_path / "a.xlsx", ROWS, {})
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_changed_byte_is_accepted_only_where_the_table_still_is_one(
    tmp_path: Path, place: int, byte: int
) -> None:
    path = tmp_path / "a.csv"
    write_submission(path, ROWS, {})
    raw = bytearray(path.read_bytes())
    raw[place % len(raw)] = byte
    path.write_bytes(raw)
    verdict = check_submission(path, PROMPTS, RULES)
    if verdict.accepted:
        assert len(read_submission(path)) == 8
        assert normalises(list(verdict.rows))
        assert len({(row.prompt, row.completion.strip()) for row in verdict.rows}) == 8
