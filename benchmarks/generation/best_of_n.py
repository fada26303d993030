"""The gain of best-of-N and of each of its signals: choices from one set of candidates, rated by other models.

Input: a checkpoint, prompts, the training stories. Output: results/best_of.json, a table, and a JSON line. Measured are the offline
referee's marks, two outside models (bits per byte of SmolLM2, similarity of sentences by MiniLM), endings, loops and overlap.
Endings, loops, names and words are signals of both the ranking and the referee; bits and similarity are not used for ranking.
Every figure has its standard error over prompts, of the difference from the default choice of 16.

    python -m benchmarks.generation.best_of_n CHECKPOINT --prompts FILE --training FILE [--every N] [--out benchmarks/results/best_of.json]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.lib.records import RESULTS, add_record_arguments, provenance, write_record
from smalltale.files import read_jsonl, read_stories, sha256_file
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

CANDIDATES, SUBMITTED = 16, 4
OUTSIDE_FEATURES = ("reference_bits", "nearest_before", "prompt_similarity")
"""Columns of the features table that the ranking does not use."""
FILE_METRICS = ("words", "ended_share", "looped_share", "rouge2_same_prompt", "self_bleu")


@dataclass(frozen=True, kw_only=True)
class RatedCandidate:
    """A candidate with its features."""

    candidate: Candidate
    copied: int
    figures: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A number of candidates and ranking weights."""

    name: str
    candidates: int
    weights: RankWeights


def list_choices() -> list[Choice]:
    """The default of 16 first, then fewer candidates, then each weight turned off."""
    default = RankWeights()
    off = [
        Choice(name=f"16, {weight.name} off", candidates=16, weights=replace(default, **{weight.name: 0.0}))
        for weight in fields(RankWeights)
    ]
    return [
        Choice(name="best of 16", candidates=16, weights=default),
        Choice(name="best of 8", candidates=8, weights=default),
        Choice(name="4 as they come", candidates=4, weights=default),
        *off,
    ]


def generate_candidates(
    checkpoint: str, prompts: Sequence[str], training: Path, seed: int
) -> list[list[RatedCandidate]]:
    """Distinct candidates of each prompt, with their features."""
    config = GenerationConfig(best_of=CANDIDATES, seed=seed)
    by_prompt: list[list[Candidate]] = [[] for _ in prompts]
    language_model = open_language_model(checkpoint, "cpu")
    generate_completions(
        language_model,
        prompts,
        config,
        on_candidate=lambda candidate: by_prompt[candidate.prompt].append(candidate),
    )
    by_prompt = [
        deduplicate(sorted(candidates, key=lambda candidate: candidate.sample))[:CANDIDATES]
        for candidates in by_prompt
    ]
    rows = [
        Completion(prompts[candidate.prompt], candidate.text)
        for candidates in by_prompt
        for candidate in candidates
    ]
    copied = iter(longest_copies([row.completion for row in rows], read_stories(training)))
    with tempfile.TemporaryDirectory() as folder:
        write_features(path := Path(folder) / "features.jsonl", rows)
        features = read_jsonl(path)
    marks = read_referee().predict(np.array([[float(row[name]) for name in SIGNALS] for row in features]))
    figures = iter(
        {f"referee_{name}": float(marks[name][index]) for name in ("overall", "grammar", "creativity")}
        | {name: float(row[name]) for name in OUTSIDE_FEATURES}
        for index, row in enumerate(features)
    )
    return [
        [
            RatedCandidate(candidate=candidate, copied=next(copied), figures=next(figures))
            for candidate in candidates
        ]
        for candidates in by_prompt
    ]


def split_into_groups(candidates: Sequence[RatedCandidate], size: int) -> Iterator[Sequence[RatedCandidate]]:
    """All complete groups of `size`, so that choices from fewer candidates rate as many stories."""
    for start in range(0, max(1, len(candidates) - size + 1), size):
        yield candidates[start : start + size]


def choose(prompt: str, group: Sequence[RatedCandidate], weights: RankWeights) -> list[RatedCandidate]:
    """The four candidates to submit."""
    candidates = [rated.candidate for rated in group]
    best = choose_best(prompt, candidates, SUBMITTED, weights, copied_words=[rated.copied for rated in group])
    return [group[candidates.index(candidate)] for candidate in best]


def measure(
    prompts: Sequence[str], rated_by_prompt: Sequence[Sequence[RatedCandidate]], choice: Choice
) -> dict[str, Any]:
    """Each figure by prompt, shape (prompts,), and file metrics as means over the groups."""
    files: list[list[Completion]] = []
    by_prompt: dict[str, list[float]] = {}
    for prompt, rated in zip(prompts, rated_by_prompt, strict=True):
        sets = [
            choose(prompt, group, choice.weights) for group in split_into_groups(rated, choice.candidates)
        ]
        for number, chosen in enumerate(sets):
            if number == len(files):
                files.append([])
            files[number] += [Completion(prompt, story.candidate.text) for story in chosen]
        for name in rated[0].figures:
            value = statistics.mean(story.figures[name] for chosen in sets for story in chosen)
            by_prompt.setdefault(name, []).append(value)
    metrics = [compute_metrics(rows) for rows in files]
    return {
        "by_prompt": {name: np.array(values) for name, values in by_prompt.items()},
        "file": {
            name: statistics.mean(getattr(file_metrics, name) for file_metrics in metrics)
            for name in FILE_METRICS
        },
    }


def build_row(choice: Choice, figures: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    """One line of the table: each figure, its difference from the default, and the standard error of that."""
    row: dict[str, Any] = {
        "choice": choice.name,
        **{name: round(value, 4) for name, value in figures["file"].items()},
    }
    for name, values in figures["by_prompt"].items():
        difference: NDArray[np.float64] = values - default["by_prompt"][name]
        row[name] = round(float(values.mean()), 4)
        row[f"{name}_difference"] = [
            round(float(difference.mean()), 4),
            round(float(difference.std(ddof=1) / len(difference) ** 0.5), 4),
        ]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--training", type=Path, required=True)
    parser.add_argument(
        "--every", type=int, default=1, help="Use every N-th prompt; rating takes seconds per story."
    )
    parser.add_argument("--seed", type=int, default=0)
    add_record_arguments(parser, RESULTS / "best_of.json")
    arguments = parser.parse_args()
    prompts = read_prompts(arguments.prompts)[:: arguments.every][: 2 if arguments.quick else None]
    rated = generate_candidates(arguments.checkpoint, prompts, arguments.training, arguments.seed)
    choices = list_choices()
    figures = {choice.name: measure(prompts, rated, choice) for choice in choices}
    rows = [build_row(choice, figures[choice.name], figures["best of 16"]) for choice in choices]
    columns = ["referee_overall", *OUTSIDE_FEATURES, *FILE_METRICS]
    print("| choice |", " | ".join(columns), "|")
    for row in rows:
        print(f"| {row['choice']} |", " | ".join(f"{row[name]:.3f}" for name in columns), "|")
    result = {
        "prompts": len(prompts),
        "candidates": sum(map(len, rated)),
        "seed": arguments.seed,
        "model_hash": sha256_file(Path(arguments.checkpoint) / "model.safetensors"),
        **provenance(("torch", "transformers"), arguments.commit),
        "device": choose_device().name,
        "rows": rows,
    }
    summary = {name: result[name] for name in ("prompts", "candidates")} | {"first": rows[0]}
    write_record(arguments.out, result, summary)


if __name__ == "__main__":
    main()
