"""The gate, the declaration, the daily limit and its races."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import func, select

from smalltale.server.database.models import Completion, HandIn, Job
from smalltale.server.errors import Problem

from .conftest import Fair, stories


def test_a_right_hand_in_is_kept_whole_and_queued(fair: Fair) -> None:
    row = fair.hand_in(fair.team("ada"))
    with fair.store.read() as session:
        assert session.scalar(select(func.count()).select_from(Completion)) == 24
        assert session.scalar(select(Job.key)) == f"judge:{row.id}:scripted-1"
    assert (row.state, row.slot, row.counted_parameters) == ("queued", "2026-03-03#0", 29_000_000)


def test_a_wrong_file_and_a_wrong_declaration_are_answered_together(fair: Fair) -> None:
    person = fair.team("ada")
    with pytest.raises(Problem) as caught:
        fair.hand_in(
            person,
            content=b"prompt,completion\nhello,there\n",
            counted_parameters="many",
            model_hash="",
            data="",
            from_scratch=False,
            weight_class="nano",
        )
    fields = [each.field for each in caught.value.fields]
    assert fields.count("file") == 7
    assert {"counted_parameters", "model_hash", "data", "from_scratch", "weight_class"} <= set(fields)
    assert "smalltale-" not in str(caught.value)


def test_a_refused_hand_in_uses_up_nothing(fair: Fair) -> None:
    person = fair.team("ada")
    with pytest.raises(Problem):
        fair.hand_in(person, content=b"nothing")
    assert fair.hand_in(person).id


def test_one_hand_in_a_day_by_the_calendar_anywhere_on_earth(fair: Fair) -> None:
    person = fair.team("ada")
    fair.clock.now = datetime(2026, 3, 4, 11, 59, 59, tzinfo=UTC)
    fair.hand_in(person)
    with pytest.raises(Problem, match="the next day begins at 2026-03-04 12:00 UTC") as caught:
        fair.hand_in(person)
    assert caught.value.status == 429
    fair.clock.now = datetime(2026, 3, 4, 12, 0, 0, tzinfo=UTC)
    assert fair.hand_in(person).slot == "2026-03-04#0"


def test_of_simultaneous_hand_ins_one_is_taken(fair: Fair) -> None:
    person = fair.team("ada")
    taken: list[int] = []
    refused: list[int] = []
    barrier = threading.Barrier(6)

    def attempt(n: int) -> None:
        barrier.wait()
        try:
            taken.append(fair.hand_in(person, content=stories(f"tried {n}")).id)
        except Problem as problem:
            refused.append(problem.status)

    threads = [threading.Thread(target=attempt, args=(n,)) for n in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert (len(taken), refused) == (1, [429] * 5)


def test_the_edition_opens_and_closes_on_the_second(fair: Fair) -> None:
    person = fair.team("ada")
    fair.clock.now = datetime(2026, 4, 8, 12, 0, 0, tzinfo=UTC)
    with pytest.raises(Problem, match="closed at 2026-04-08 12:00 UTC"):
        fair.hand_in(person)
    fair.clock.now = datetime(2026, 4, 8, 11, 59, 59, tzinfo=UTC)
    assert fair.hand_in(person).id
    fair.clock.now = datetime(2026, 3, 1, 11, 59, 59, tzinfo=UTC)
    with pytest.raises(Problem, match="opens at 2026-03-01 12:00 UTC"):
        fair.hand_in(person)


def test_one_final_hand_in_on_the_final_prompts_and_only_after_they_appear(fair: Fair) -> None:
    person = fair.team("ada")
    final = stories(prompts=[f"F Once upon a time, number {i} went out. One day," for i in range(6)])
    with pytest.raises(Problem) as caught:
        fair.hand_in(person, kind="final", content=final)
    assert caught.value.status == 404
    fair.clock.advance(days=31)
    assert fair.hand_in(person, kind="final", content=final).slot == "final#0"
    fair.clock.advance(days=1)
    with pytest.raises(Problem, match="cannot be replaced"):
        fair.hand_in(person, kind="final", content=final)
    assert fair.hand_in(person).kind == "daily"


def test_a_team_may_enter_a_larger_class_and_not_a_smaller_one(fair: Fair) -> None:
    owner = fair.team("big", hardware="one RTX 4090")
    with pytest.raises(Problem, match="choose one of: large"):
        fair.hand_in(owner, weight_class="small")
    assert (
        fair.hand_in(fair.team("ada"), weight_class="large", counted_parameters="119000000").weight_class
        == "large"
    )


def test_more_parameters_than_the_class_allows_are_refused(fair: Fair) -> None:
    with pytest.raises(Problem, match="30,000,001 is more than small allows"):
        fair.hand_in(fair.team("ada"), counted_parameters="30_000_001")


@pytest.mark.parametrize("name", ["stories.exe", "", "../../etc/passwd", "stories.csv.zip"])
def test_a_file_of_another_form_is_refused_by_its_name(fair: Fair, name: str) -> None:
    with pytest.raises(Problem, match=r"none of \.csv"):
        fair.hand_in(fair.team("ada"), file_name=name)


def test_a_failed_hand_in_gives_its_slot_back(fair: Fair) -> None:
    person = fair.team("ada")
    first = fair.hand_in(person)
    with fair.store.write() as session:
        row = session.get_one(HandIn, first.id)
        row.state, row.slot = "failed", None
    assert fair.hand_in(person).slot == first.slot


def test_half_a_character_is_refused_with_its_row(fair: Fair) -> None:
    lines = [
        f'{{"prompt": "{prompt}", "completion": "and {n}{chr(92)}ud800"}}'
        for prompt in [f"Once upon a time, number {i} went out. One day," for i in range(6)]
        for n in range(4)
    ]
    with pytest.raises(Problem, match="row 1, column completion: half a character is not UTF-8"):
        fair.hand_in(fair.team("ada"), content="\n".join(lines).encode(), file_name="a.jsonl")


def test_a_parquet_file_that_says_one_long_text_many_times_is_refused_before_it_fills_the_memory(
    fair: Fair, tmp_path: Path
) -> None:
    long = pa.array(["x" * 400_000]).dictionary_encode().take(pa.array([0] * 90_000, pa.int32()))
    pq.write_table(pa.table({"prompt": ["p"] * 90_000, "completion": long}), tmp_path / "bomb.parquet")
    content = (tmp_path / "bomb.parquet").read_bytes()
    assert len(content) < 1_000_000
    with pytest.raises(Problem, match="unpacks to more than 50,000,000 characters"):
        fair.hand_in(fair.team("ada"), file_name="bomb.parquet", content=content)
