from __future__ import annotations

from pathlib import Path

from smalltale.generation.best_of_n import Ranked, choose_best
from smalltale.generation.candidate import Candidate, Journal
from smalltale.generation.sampler import RankWeights, repeats

GOOD = "Mia and the dog ran home. She gave it some water, and then it slept on her bed. Mia was happy. "


def candidate(sample: int, text: str, ended: str = "story", chance: float = -1.0) -> Candidate:
    return Candidate(prompt=0, sample=sample, text=text, tokens=9, mean_log_probability=chance, ended=ended)


def test_broken_candidates_lose_to_whole_ones() -> None:
    whole = [candidate(0, GOOD * 3 + "One."), candidate(1, GOOD.replace("bed", "mat") + "The end.")]
    broken = [
        candidate(2, 'She said, "Come here and'),
        candidate(3, "The dog ran. " * 20, ended="loop"),
        candidate(4, GOOD + "Then she", ended="length"),
    ]
    shown: list[Ranked] = []
    best = choose_best(
        "One day Mia saw a dog, and Mia ran.", [*broken, *whole], 1, RankWeights(), shown.append
    )
    assert best == [whole[1]]
    assert [each.chosen for each in shown].count(True) == 1


def test_the_second_choice_is_not_the_first_one_again() -> None:
    twin = GOOD.replace("happy", "glad")
    other = "A boy threw his ball over a tall fence. His sister found it there, so they played until dark. "
    chosen = choose_best(
        "Once", [candidate(0, GOOD), candidate(1, twin), candidate(2, other)], 2, RankWeights()
    )
    assert {each.sample for each in chosen} in ({0, 2}, {1, 2})


def test_an_endless_loop_is_seen_and_a_story_is_not() -> None:
    assert repeats([1, 2, 3] + [7, 8] * 10, 4)
    assert repeats([5] * 16, 4)
    assert not repeats([5] * 15, 4)
    assert not repeats(list(range(200)), 2)


def test_a_killed_run_goes_on_and_another_one_starts_over(tmp_path: Path) -> None:
    path = tmp_path / ".a.csv.journal.jsonl"
    first = Journal(path, {"seed": 1})
    first.keep(candidate(0, "A “story”\nwith lines"))
    first.close()
    with path.open("a", encoding="utf-8") as broken:
        broken.write('{"prompt": 0, "sam')
    second = Journal(path, {"seed": 1})
    assert second.finished == [candidate(0, "A “story”\nwith lines")]
    second.close()
    third = Journal(path, {"seed": 2})
    assert third.finished == []
    third.remove()
    assert not path.exists()


def test_a_copied_story_loses_to_one_that_is_not_and_the_signal_says_so() -> None:
    candidates = [candidate(0, GOOD), candidate(1, GOOD.replace("bed", "mat"))]
    shown: list[Ranked] = []
    best = choose_best("Once", candidates, 1, RankWeights(), shown.append, [90, 12])
    assert best == [candidates[1]]
    assert [each.signals.uncopied for each in shown] == [0, 1]
    choose_best("Once", candidates, 1, RankWeights(), shown.append)
    assert shown[-1].signals.uncopied is None
