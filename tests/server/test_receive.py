"""Validation of the file and the declaration, the daily limit, and races for it."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import func, select

from smalltale.server.database.models import CompletionRow, Edition, Job, Submission
from smalltale.server.errors import RequestProblem

from .conftest import Hackathon, submission_csv


def test_a_valid_submission_is_stored_completely_and_queued(hackathon: Hackathon) -> None:
    submission = hackathon.submit(hackathon.add_team("ada"))
    with hackathon.database.read() as session:
        assert session.scalar(select(func.count()).select_from(CompletionRow)) == 24
        assert session.scalar(select(Job.key)) == f"judge:{submission.id}:scripted-1"
    assert (submission.state, submission.slot) == ("queued", "2026-03-03#0")
    assert submission.counted_parameters == 29_000_000


def test_problems_of_the_file_and_of_the_declaration_are_reported_together(hackathon: Hackathon) -> None:
    person = hackathon.add_team("ada")
    with pytest.raises(RequestProblem) as raised:
        hackathon.submit(
            person,
            content=b"prompt,completion\nhello,there\n",
            counted_parameters="many",
            model_hash="",
            data="",
            from_scratch=False,
            weight_class="nano",
        )
    fields = [problem.field for problem in raised.value.fields]
    assert fields.count("file") == 7
    assert {"counted_parameters", "model_hash", "data", "from_scratch", "weight_class"} <= set(fields)
    assert "smalltale-" not in str(raised.value)


def test_a_refused_submission_does_not_count_against_the_limit(hackathon: Hackathon) -> None:
    person = hackathon.add_team("ada")
    with pytest.raises(RequestProblem):
        hackathon.submit(person, content=b"nothing")
    assert hackathon.submit(person).id


def test_one_submission_per_day_by_the_calendar_anywhere_on_earth(hackathon: Hackathon) -> None:
    person = hackathon.add_team("ada")
    hackathon.clock.now = datetime(2026, 3, 4, 11, 59, 59, tzinfo=UTC)
    hackathon.submit(person)
    with pytest.raises(
        RequestProblem, match=r"already submitted on 2026-03-03 \(AOE\); next at 04 Mar 12:00 UTC"
    ) as raised:
        hackathon.submit(person)
    assert raised.value.status == 429
    hackathon.clock.now = datetime(2026, 3, 4, 12, 0, 0, tzinfo=UTC)
    assert hackathon.submit(person).slot == "2026-03-04#0"


def test_one_of_several_simultaneous_submissions_is_accepted(hackathon: Hackathon) -> None:
    person = hackathon.add_team("ada")
    accepted_ids: list[int] = []
    refusals: list[int] = []
    barrier = threading.Barrier(6)

    def attempt(n: int) -> None:
        barrier.wait()
        try:
            accepted_ids.append(hackathon.submit(person, content=submission_csv(f"tried {n}")).id)
        except RequestProblem as problem:
            refusals.append(problem.status)

    threads = [threading.Thread(target=attempt, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(accepted_ids), refusals) == (1, [429] * 5)


def test_the_edition_opens_and_closes_to_the_second(hackathon: Hackathon) -> None:
    person = hackathon.add_team("ada")
    hackathon.clock.now = datetime(2026, 4, 8, 12, 0, 0, tzinfo=UTC)
    with pytest.raises(RequestProblem, match="closed at 2026-04-08 12:00 UTC"):
        hackathon.submit(person)
    hackathon.clock.now = datetime(2026, 4, 8, 11, 59, 59, tzinfo=UTC)
    assert hackathon.submit(person).id
    hackathon.clock.now = datetime(2026, 3, 1, 11, 59, 59, tzinfo=UTC)
    with pytest.raises(RequestProblem, match="opens at 2026-03-01 12:00 UTC"):
        hackathon.submit(person)


def test_one_final_submission_on_the_final_prompts_after_they_appear(hackathon: Hackathon) -> None:
    person = hackathon.add_team("ada")
    final = submission_csv(prompts=[f"F Once upon a time, number {i} went out. One day," for i in range(6)])
    with pytest.raises(RequestProblem) as raised:
        hackathon.submit(person, kind="final", content=final)
    assert raised.value.status == 404
    hackathon.clock.advance(days=31)
    assert hackathon.submit(person, kind="final", content=final).slot == "final#0"
    hackathon.clock.advance(days=1)
    with pytest.raises(RequestProblem, match="cannot be replaced"):
        hackathon.submit(person, kind="final", content=final)
    assert hackathon.submit(person).kind == "daily"


def test_a_team_may_enter_a_larger_class_but_not_a_smaller_one(hackathon: Hackathon) -> None:
    person = hackathon.add_team("big", hardware="one RTX 4090")
    with pytest.raises(RequestProblem, match="choose one of: large"):
        hackathon.submit(person, weight_class="small")
    larger = {"weight_class": "large", "counted_parameters": "119000000"}
    assert hackathon.submit(hackathon.add_team("ada"), **larger).weight_class == "large"


def test_more_parameters_than_the_class_allows_are_refused(hackathon: Hackathon) -> None:
    with pytest.raises(RequestProblem, match="30,000,001 is more than small allows"):
        hackathon.submit(hackathon.add_team("ada"), counted_parameters="30_000_001")


@pytest.mark.parametrize("name", ["stories.exe", "", "../../etc/passwd", "stories.csv.zip"])
def test_a_file_type_that_is_not_supported_is_refused(hackathon: Hackathon, name: str) -> None:
    with pytest.raises(RequestProblem, match="unsupported file type"):
        hackathon.submit(hackathon.add_team("ada"), file_name=name)


def test_a_failed_submission_frees_its_slot(hackathon: Hackathon) -> None:
    person = hackathon.add_team("ada")
    first = hackathon.submit(person)
    with hackathon.database.write() as session:
        submission = session.get_one(Submission, first.id)
        submission.state, submission.slot = "failed", None
    assert hackathon.submit(person).slot == first.slot


def test_half_a_surrogate_pair_is_refused_with_its_row(hackathon: Hackathon) -> None:
    lines = [
        f'{{"prompt": "{prompt}", "completion": "and {n}{chr(92)}ud800"}}'
        for prompt in [f"Once upon a time, number {i} went out. One day," for i in range(6)]
        for n in range(4)
    ]
    with pytest.raises(RequestProblem, match="row 1, column completion: half a surrogate pair is not UTF-8"):
        hackathon.submit(hackathon.add_team("ada"), content="\n".join(lines).encode(), file_name="a.jsonl")


def test_a_parquet_file_that_unpacks_to_too_much_text_is_refused_before_it_fills_the_memory(
    hackathon: Hackathon, tmp_path: Path
) -> None:
    repeated = pa.array(["x" * 400_000]).dictionary_encode().take(pa.array([0] * 90_000, pa.int32()))
    pq.write_table(pa.table({"prompt": ["p"] * 90_000, "completion": repeated}), tmp_path / "bomb.parquet")
    content = (tmp_path / "bomb.parquet").read_bytes()
    assert len(content) < 1_000_000
    with pytest.raises(RequestProblem, match="unpacks to more than 50,000,000 characters"):
        hackathon.submit(hackathon.add_team("ada"), file_name="bomb.parquet", content=content)


def test_an_edition_may_allow_two_submissions_per_day(hackathon: Hackathon) -> None:
    with hackathon.database.write() as session:
        edition = session.get_one(Edition, hackathon.edition.id)
        edition.toml = "hand_ins_per_day = 2\n" + edition.toml
        hackathon.edition = edition
    person = hackathon.add_team("ada")
    slots = [hackathon.submit(person, content=submission_csv(f"and {word}")).slot for word in ("ran", "sang")]
    assert slots == ["2026-03-03#0", "2026-03-03#1"]
    with pytest.raises(RequestProblem, match="already submitted 2 times"):
        hackathon.submit(person)
