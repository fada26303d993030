from __future__ import annotations

from pathlib import Path

import pytest

from smalltale.errors import FileProblem
from smalltale.generation.best_of_n import RankedCandidate, choose_best
from smalltale.generation.candidate import Candidate, CandidateJournal
from smalltale.generation.sampler import RankWeights, ends_in_loop

GOOD = "Mia and the dog ran home. She gave it some water, and then it slept on her bed. Mia was happy. "


def candidate(sample: int, text: str, ended: str = "story") -> Candidate:
    return Candidate(prompt=0, sample=sample, text=text, tokens=9, mean_log_probability=-1.0, ended=ended)


def test_a_complete_candidate_is_chosen_before_broken_ones() -> None:
    complete = [candidate(0, GOOD * 3 + "One."), candidate(1, GOOD.replace("bed", "mat") + "The end.")]
    broken = [
        candidate(2, 'She said, "Come here and'),
        candidate(3, "The dog ran. " * 20, ended="loop"),
        candidate(4, GOOD + "Then she", ended="length"),
    ]
    ranked: list[RankedCandidate] = []
    best = choose_best(
        "One day Mia saw a dog, and Mia ran.", [*broken, *complete], 1, RankWeights(), ranked.append
    )
    assert best == [complete[1]]
    assert [entry.chosen for entry in ranked].count(True) == 1


def test_the_second_choice_differs_from_the_first() -> None:
    twin = GOOD.replace("happy", "glad")
    different = (
        "A boy threw his ball over a tall fence. His sister found it there, so they played until dark. "
    )
    chosen = choose_best(
        "Once", [candidate(0, GOOD), candidate(1, twin), candidate(2, different)], 2, RankWeights()
    )
    assert {chosen_candidate.sample for chosen_candidate in chosen} in ({0, 2}, {1, 2})


def test_an_endless_loop_is_detected_and_a_story_is_not() -> None:
    assert ends_in_loop([1, 2, 3] + [7, 8] * 10, 4)
    assert ends_in_loop([5] * 16, 4)
    assert not ends_in_loop([5] * 15, 4)
    assert not ends_in_loop(list(range(200)), 2)


def test_a_killed_run_resumes_and_a_different_run_starts_over(tmp_path: Path) -> None:
    path = tmp_path / ".a.csv.journal.jsonl"
    first = CandidateJournal(path, {"seed": 1})
    first.add(candidate(0, "A “story”\nwith lines"))
    first.close()
    with path.open("a", encoding="utf-8") as file:
        file.write('{"prompt": 0, "sam')
    second = CandidateJournal(path, {"seed": 1})
    assert second.finished == [candidate(0, "A “story”\nwith lines")]
    second.close()
    third = CandidateJournal(path, {"seed": 2})
    assert third.finished == []
    with pytest.raises(FileProblem, match="another run is writing"):
        CandidateJournal(path, {"seed": 2})
    third.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_copied_story_is_not_chosen_and_its_signal_is_zero() -> None:
    candidates = [candidate(0, GOOD), candidate(1, GOOD.replace("bed", "mat"))]
    ranked: list[RankedCandidate] = []
    best = choose_best("Once", candidates, 1, RankWeights(), ranked.append, [90, 12])
    assert best == [candidates[1]]
    assert [entry.signals.uncopied for entry in ranked] == [0, 1]
    choose_best("Once", candidates, 1, RankWeights(), ranked.append)
    assert ranked[-1].signals.uncopied is None
