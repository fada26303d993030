"""What best-of-N brings, and each of its signals: one set of candidates, chosen from in many ways, read by others.

In: a checkpoint, prompts, the training stories. Out: results/best_of.json, a table, and a JSON line. Measured are the offline
referee's marks, two outside models' reading (bits of SmolLM2, sentences near an earlier one by MiniLM), endings, loops, overlap.
Beware: ending, loops, names and words are signals of the ranking and of the referee alike; bits and nearness are not the
ranking's. Every figure is told with its standard error over the prompts, of the difference from the default choice of 16.

    python -m benchmarks.generation.best_of_n CHECKPOINT --prompts FILE --training FILE [--every N] [--out benchmarks/results/best_of.json]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smalltale.doctor import describe_machine
from smalltale.files import git_commit, read_jsonl, read_stories, sha256_file
from smalltale.generation.best_of_n import choose_best
from smalltale.generation.candidate import Candidate
from smalltale.generation.generate import deduplicate, generate_completions
from smalltale.generation.language_model import open_language_model
from smalltale.generation.sampler import GenerationConfig, RankWeights
from smalltale.judging.referee import SIGNALS, read_referee
from smalltale.metrics.features import write_features
from smalltale.metrics.memorization import longest_copies
from smalltale.metrics.metrics import compute_metrics
from smalltale.prompts import read_prompts
from smalltale.submission import Completion
from smalltale.training.device import choose_device

HERE = Path(__file__).parents[1]
CANDIDATES, HANDED_IN = 16, 4
OUTSIDE = ("reference_bits", "nearest_before", "prompt_similarity")
"""Columns of the signals table that are no signal of the ranking."""
OF_A_FILE = ("words", "ended_share", "looped_share", "rouge2_same_prompt", "self_bleu")


@dataclass(frozen=True, kw_only=True)
class Story:
    """A candidate with what others make of it."""

    candidate: Candidate
    copied: int
    figures: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to choose."""

    name: str
    of: int
    weights: RankWeights


def ways() -> list[Way]:
    """The default of 16 first, then fewer candidates, then each weight off."""
    usual = RankWeights()
    off = [
        Way(name=f"16, {each.name} off", of=16, weights=replace(usual, **{each.name: 0.0}))
        for each in fields(RankWeights)
    ]
    return [
        Way(name="best of 16", of=16, weights=usual),
        Way(name="best of 8", of=8, weights=usual),
        Way(name="4 as they come", of=4, weights=usual),
        *off,
    ]


def stories_of(checkpoint: str, prompts: Sequence[str], training: Path, seed: int) -> list[list[Story]]:
    """Different candidates of each prompt, read and measured."""
    config = GenerationConfig(best_of=CANDIDATES, seed=seed)
    kept: list[list[Candidate]] = [[] for _ in prompts]
    language_model = open_language_model(checkpoint, "cpu")
    generate_completions(
        language_model, prompts, config, on_candidate=lambda each: kept[each.prompt].append(each)
    )
    kept = [deduplicate(sorted(each, key=lambda one: one.sample))[:CANDIDATES] for each in kept]
    rows = [Completion(prompts[each.prompt], each.text) for group in kept for each in group]
    copied = iter(longest_copies([row.completion for row in rows], read_stories(training)))
    with tempfile.TemporaryDirectory() as folder:
        write_features(table := Path(folder) / "signals.jsonl", rows)
        read = read_jsonl(table)
    marks = read_referee().predict(np.array([[float(row[name]) for name in SIGNALS] for row in read]))
    figures = iter(
        {f"referee_{name}": float(marks[name][place]) for name in ("overall", "grammar", "creativity")}
        | {name: float(row[name]) for name in OUTSIDE}
        for place, row in enumerate(read)
    )
    return [
        [Story(candidate=each, copied=next(copied), figures=next(figures)) for each in group]
        for group in kept
    ]


def groups_of(stories: Sequence[Story], size: int) -> Iterator[Sequence[Story]]:
    """As many whole groups of candidates as there are, so that fewer candidates are not fewer stories read."""
    for start in range(0, max(1, len(stories) - size + 1), size):
        yield stories[start : start + size]


def chosen_from(prompt: str, group: Sequence[Story], weights: RankWeights) -> list[Story]:
    """The four that are handed in."""
    candidates = [each.candidate for each in group]
    best = choose_best(prompt, candidates, HANDED_IN, weights, copied_words=[each.copied for each in group])
    return [group[candidates.index(each)] for each in best]


def measured(prompts: Sequence[str], stories: Sequence[Sequence[Story]], way: Way) -> dict[str, Any]:
    """Each figure by prompt, (prompts,), and the figures of whole files, means over the groups."""
    files: list[list[Completion]] = []
    by_prompt: dict[str, list[float]] = {}
    for prompt, mine in zip(prompts, stories, strict=True):
        sets = [chosen_from(prompt, group, way.weights) for group in groups_of(mine, way.of)]
        for number, each in enumerate(sets):
            files += [[]] * (number >= len(files))
            files[number] = files[number] + [Completion(prompt, one.candidate.text) for one in each]
        for name in mine[0].figures:
            value = statistics.mean(one.figures[name] for each in sets for one in each)
            by_prompt.setdefault(name, []).append(value)
    whole = [compute_metrics(rows) for rows in files]
    return {
        "by_prompt": {name: np.array(values) for name, values in by_prompt.items()},
        "file": {name: statistics.mean(getattr(each, name) for each in whole) for name in OF_A_FILE},
    }


def row_of(way: Way, found: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    """A line of the table: each figure, and how far it is from the default with the standard error of that."""
    row: dict[str, Any] = {
        "way": way.name,
        **{name: round(value, 4) for name, value in found["file"].items()},
    }
    for name, values in found["by_prompt"].items():
        apart: NDArray[np.float64] = values - usual["by_prompt"][name]
        row[name] = round(float(values.mean()), 4)
        row[f"{name}_apart"] = [
            round(float(apart.mean()), 4),
            round(float(apart.std(ddof=1) / len(apart) ** 0.5), 4),
        ]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--training", type=Path, required=True)
    parser.add_argument(
        "--every", type=int, default=1, help="Take one prompt of so many; reading takes seconds a story."
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "best_of.json")
    asked = parser.parse_args()
    prompts = read_prompts(asked.prompts)[:: asked.every]
    stories = stories_of(asked.checkpoint, prompts, asked.training, asked.seed)
    found = {way.name: measured(prompts, stories, way) for way in ways()}
    rows = [row_of(way, found[way.name], found["best of 16"]) for way in ways()]
    shown = ["referee_overall", *OUTSIDE, *OF_A_FILE]
    print("| choice |", " | ".join(shown), "|")
    for row in rows:
        print(f"| {row['way']} |", " | ".join(f"{row[name]:.3f}" for name in shown), "|")
    result = {
        "prompts": len(prompts),
        "candidates": sum(map(len, stories)),
        "seed": asked.seed,
        "model_hash": sha256_file(Path(asked.checkpoint) / "model.safetensors"),
        "machine": describe_machine(choose_device()),
        "commit": git_commit(),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
        "rows": rows,
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({name: result[name] for name in ("prompts", "candidates")} | {"first": rows[0]}))


if __name__ == "__main__":
    main()
