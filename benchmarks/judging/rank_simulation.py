"""How often the better entry ranks first: 60 prompts x 4 completions, with and without pairing and panel.

Output: results/judging_simulation.json and a table. The variance between prompts and between stories is measured from one grader's
marks. How the variance between stories divides into the story's quality, a judge's taste and a judge's noise is assumed (SHARES),
because one grading cannot separate them.

    python -m benchmarks.judging.rank_simulation --graded judge_gold.jsonl
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib.records import RESULTS, add_record_arguments, provenance, write_record
from smalltale.files import sha256_file
from smalltale.judging.gold import GradedStory, read_graded_stories
from smalltale.judging.rubric import load_rubric
from smalltale.ranking.statistics import clustered_interval, compare_paired

PROMPTS, SAMPLES, JUDGES = 60, 4, 3
SHARES = {"story": 0.6, "taste": 0.2, "judgement": 0.2}
"""Shares of the variance between stories of one model on one prompt: quality, a judge's taste, a judge's noise."""
DIFFERENCES = (0.0, 0.1, 0.2, 0.3, 0.5)


def measure_variance(graded: list[GradedStory]) -> dict[str, float]:
    """Standard deviations of the overall mark between prompts, and between a model's stories within a prompt.

    Two-way analysis of variance: every model answers every prompt once.
    """
    prompts = sorted({story.prompt for story in graded})
    marks = {(story.model, story.prompt): story.overall for story in graded}
    table = np.array(
        [[marks[model, prompt] for prompt in prompts] for model in sorted({story.model for story in graded})]
    )
    table = table - table.mean(axis=1, keepdims=True)
    by_prompt, (models, count) = table.mean(axis=0), table.shape
    residual = ((table - by_prompt) ** 2).sum() / ((models - 1) * (count - 1))
    between = models * (by_prompt**2).sum() / (count - 1)
    return {
        "prompt": round(float(max(0.0, (between - residual) / models) ** 0.5), 3),
        "story": round(float(residual**0.5), 3),
    }


def draw_marks(
    generator: np.random.Generator, quality: float, prompts: np.ndarray, judges: int, story: float
) -> dict[str, list[float]]:
    """One entry's story scores by prompt, each the mean of `judges` marks."""
    spread = {name: story * share**0.5 for name, share in SHARES.items()}
    story_quality = quality + prompts[:, None] + generator.normal(0, spread["story"], (len(prompts), SAMPLES))
    marks = story_quality[..., None] + generator.normal(
        0, np.hypot(spread["taste"], spread["judgement"]), (*story_quality.shape, judges)
    )
    # Criteria have integer marks; the overall score is the mean of four, so it is a multiple of 1/4.
    means = np.clip(np.rint(marks * 4) / 4, 1, 10).mean(axis=2)
    return {str(number): row.tolist() for number, row in enumerate(means)}


def simulate(
    rounds: int, difference: float, judges: int, noise: dict[str, float], seed: int
) -> dict[str, Any]:
    """How often the better entry has the higher mean, and is separated by pairing and by disjoint intervals."""
    generator, counts = np.random.default_rng(seed), np.zeros(4)
    for number in range(rounds):
        prompts = generator.normal(0, noise["prompt"], PROMPTS)
        better, worse = (
            draw_marks(generator, 5.5 + gain, prompts, judges, noise["story"]) for gain in (difference, 0.0)
        )
        compared = compare_paired(better, worse, seed=number)
        first, second = clustered_interval(better, seed=number), clustered_interval(worse, seed=number)
        assert compared is not None
        assert first is not None
        assert second is not None
        is_ahead = compared.difference.mean > 0
        counts += [
            is_ahead,
            compared.is_separated and is_ahead,
            (first.low or 0.0) > (second.high or 0.0),
            compared.is_separated and not is_ahead,
        ]
    higher, by_pairs, by_intervals, wrong = (round(float(count) / rounds, 3) for count in counts)
    return {
        "difference": difference,
        "judges": judges,
        "higher_mean": higher,
        "separated_paired": by_pairs,
        "separated_unpaired": by_intervals,
        "wrongly_separated_paired": wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graded", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=500)
    add_record_arguments(parser, RESULTS / "judging_simulation.json")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = 50
    noise = measure_variance(read_graded_stories(arguments.graded, list(load_rubric("paper").criteria)))
    rows = [
        simulate(arguments.rounds, difference, judges, noise, 7)
        for judges in (1, JUDGES)
        for difference in DIFFERENCES
    ]
    settings = {
        "prompts": PROMPTS,
        "samples": SAMPLES,
        "noise": noise,
        "shares": SHARES,
        "rounds": arguments.rounds,
    }
    inputs = {"graded": arguments.graded.name, "sha256": sha256_file(arguments.graded)}
    print(f"noise {noise}\njudges  difference  higher mean  separated, paired  by intervals  wrongly")
    for row in rows:
        print(
            f"{row['judges']:6d}  {row['difference']:10.1f}  {row['higher_mean']:11.1%}  {row['separated_paired']:17.1%}  "
            f"{row['separated_unpaired']:12.1%}  {row['wrongly_separated_paired']:7.1%}"
        )
    record = {**settings, **inputs, "rows": rows, **provenance(("numpy",), arguments.commit)}
    write_record(arguments.out, record, {"noise": noise, "rows": rows})


if __name__ == "__main__":
    main()
