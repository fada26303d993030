"""How often the better entry ranks first: 60 prompts x 4 completions, with and without pairing and panel.

Out: benchmarks/results/judging_simulation.json and a table. Run: python -m benchmarks.judging.rank_simulation --graded judge_gold.jsonl
Beware: how much prompts and stories differ is measured from one grader's marks; how the stories' part divides between the story
itself, a judge's taste and what a judge draws anew is assumed (SHARES), because one grading cannot tell them apart.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from smalltale.files import git_commit, sha256_file, write_json
from smalltale.judging.gold import GradedStory, read_graded_stories
from smalltale.judging.rubric import load_rubric
from smalltale.ranking.statistics import clustered_interval, compare_paired

PROMPTS, SAMPLES, JUDGES = 60, 4, 3
SHARES = {"story": 0.6, "taste": 0.2, "judgement": 0.2}
"""Of the variance between stories of one model on one prompt: the story's worth, a judge's taste for it, chance."""
DIFFERENCES = (0.0, 0.1, 0.2, 0.3, 0.5)


def measured(graded: list[GradedStory]) -> dict[str, float]:
    """Standard deviations of the overall mark: between prompts, and between a model's stories beyond its prompts.

    From a two-way layout: every model answers every prompt once.
    """
    prompts = sorted({each.prompt for each in graded})
    marks = {(each.model, each.prompt): each.overall for each in graded}
    table = np.array(
        [[marks[model, prompt] for prompt in prompts] for model in sorted({each.model for each in graded})]
    )
    table = table - table.mean(axis=1, keepdims=True)
    by_prompt, (models, count) = table.mean(axis=0), table.shape
    residual = ((table - by_prompt) ** 2).sum() / ((models - 1) * (count - 1))
    between = models * (by_prompt**2).sum() / (count - 1)
    return {
        "prompt": round(float(max(0.0, (between - residual) / models) ** 0.5), 3),
        "story": round(float(residual**0.5), 3),
    }


def marks_of(
    draw: np.random.Generator, quality: float, prompts: np.ndarray, judges: int, story: float
) -> dict[str, list[float]]:
    """One entry's stories by prompt, each the mean of so many judges' marks."""
    spread = {name: story * share**0.5 for name, share in SHARES.items()}
    worth = quality + prompts[:, None] + draw.normal(0, spread["story"], (len(prompts), SAMPLES))
    said = worth[..., None] + draw.normal(
        0, np.hypot(spread["taste"], spread["judgement"]), (*worth.shape, judges)
    )
    # A criterion is a whole mark; the overall score is the mean of four, so it comes in quarters.
    means = np.clip(np.rint(said * 4) / 4, 1, 10).mean(axis=2)
    return {str(number): row.tolist() for number, row in enumerate(means)}


def shares(rounds: int, difference: float, judges: int, noise: dict[str, float], seed: int) -> dict[str, Any]:
    """How often the better entry has the higher mean, and is separated, by pairing and by intervals that do not overlap."""
    draw, counts = np.random.default_rng(seed), np.zeros(4)
    for number in range(rounds):
        prompts = draw.normal(0, noise["prompt"], PROMPTS)
        better, worse = (
            marks_of(draw, 5.5 + gain, prompts, judges, noise["story"]) for gain in (difference, 0.0)
        )
        compared = compare_paired(better, worse, seed=number)
        mine, theirs = clustered_interval(better, seed=number), clustered_interval(worse, seed=number)
        assert compared is not None
        assert mine is not None
        assert theirs is not None
        ahead = compared.difference.mean > 0
        counts += [
            ahead,
            compared.is_separated and ahead,
            (mine.low or 0.0) > (theirs.high or 0.0),
            compared.is_separated and not ahead,
        ]
    first, by_pairs, by_intervals, wrong = (round(float(each) / rounds, 3) for each in counts)
    return {
        "difference": difference,
        "judges": judges,
        "higher_mean": first,
        "separated_paired": by_pairs,
        "separated_unpaired": by_intervals,
        "wrongly_separated_paired": wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graded", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1] / "results" / "judging_simulation.json"
    )
    options = parser.parse_args()
    noise = measured(read_graded_stories(options.graded, list(load_rubric("paper").criteria)))
    rows = [
        shares(options.rounds, difference, judges, noise, 7)
        for judges in (1, JUDGES)
        for difference in DIFFERENCES
    ]
    settings = {
        "prompts": PROMPTS,
        "samples": SAMPLES,
        "noise": noise,
        "shares": SHARES,
        "rounds": options.rounds,
    }
    inputs = {"graded": options.graded.name, "sha256": sha256_file(options.graded)}
    write_json(options.out, {**settings, **inputs, "rows": rows, "commit": git_commit()})
    print(f"noise {noise}\njudges  difference  higher mean  separated, paired  by intervals  wrongly")
    for row in rows:
        print(
            f"{row['judges']:6d}  {row['difference']:10.1f}  {row['higher_mean']:11.1%}  {row['separated_paired']:17.1%}  "
            f"{row['separated_unpaired']:12.1%}  {row['wrongly_separated_paired']:7.1%}"
        )


if __name__ == "__main__":
    main()
