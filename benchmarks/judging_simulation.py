"""How often the better entry ranks first: 60 prompts x 4 completions, realistic noise, with and without pairing and panel.

Out: benchmarks/results/judging_simulation.json and a table. Run: python benchmarks/judging_simulation.py [--rounds 1000]
Beware: the noise is assumed, not measured: see NOISE. Figures hold for it alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from smalltale.files import git_commit, write_json

PROMPTS, SAMPLES, JUDGES = 60, 4, 3
NOISE = {"prompt": 1.0, "story": 1.2, "judge taste": 0.5, "judgement": 1.0}
"""Standard deviations in marks: how prompts differ, how one model's stories on one prompt differ, how a judge's taste for a
story differs from the others', and what a judge draws anew each time."""
DIFFERENCES = (0.0, 0.1, 0.2, 0.3, 0.5)
DRAWS = 500


def prompt_means(draw: np.random.Generator, quality: float, prompts: np.ndarray, judges: int) -> np.ndarray:
    """One entry's mean score on each prompt by a panel of so many judges."""
    stories = quality + prompts[:, None] + draw.normal(0, NOISE["story"], (len(prompts), SAMPLES))
    said = stories[..., None] + draw.normal(
        0, np.hypot(NOISE["judge taste"], NOISE["judgement"]), (*stories.shape, judges)
    )
    marks = np.clip(np.rint(said), 1, 10)
    means: np.ndarray = marks.mean(axis=(1, 2))
    return means


def interval(draw: np.random.Generator, means: np.ndarray) -> tuple[float, float]:
    drawn = means[draw.integers(0, len(means), (DRAWS, len(means)))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def share(rounds: int, difference: float, judges: int, seed: int) -> dict[str, Any]:
    """How often the better entry has the higher mean, and is separated, by pairing and by intervals that do not overlap."""
    draw, counts = np.random.default_rng(seed), np.zeros(4)
    for _ in range(rounds):
        prompts = draw.normal(0, NOISE["prompt"], PROMPTS)
        better, worse = (prompt_means(draw, 5.5 + gain, prompts, judges) for gain in (difference, 0.0))
        low, high = interval(draw, better - worse)
        mine, theirs = interval(draw, better), interval(draw, worse)
        counts += [better.mean() > worse.mean(), low > 0, mine[0] > theirs[1], high < 0]
    first, paired, unpaired, wrong = (round(float(each) / rounds, 3) for each in counts)
    return {
        "difference": difference,
        "judges": judges,
        "higher_mean": first,
        "separated_paired": paired,
        "separated_unpaired": unpaired,
        "wrongly_separated_paired": wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "judging_simulation.json"
    )
    options = parser.parse_args()
    rows = [
        share(options.rounds, difference, judges, 7) for judges in (1, JUDGES) for difference in DIFFERENCES
    ]
    write_json(
        options.out,
        {
            "prompts": PROMPTS,
            "samples": SAMPLES,
            "noise": NOISE,
            "rounds": options.rounds,
            "rows": rows,
            "commit": git_commit(),
        },
    )
    print("judges  difference  higher mean  separated, paired  separated, unpaired  wrongly")
    for row in rows:
        print(
            f"{row['judges']:6d}  {row['difference']:10.1f}  {row['higher_mean']:11.1%}  {row['separated_paired']:17.1%}  {row['separated_unpaired']:19.1%}  {row['wrongly_separated_paired']:7.1%}"
        )


if __name__ == "__main__":
    main()
