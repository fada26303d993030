"""Ablation of the recipe's choices: each against the base, at equal steps and equal counted parameters.

Input: a training and a validation text. Output: results/ablation-cpu.json, a table, and a JSON line: for each choice and seed the
bits per byte, the difference from the base with the same seed, counted parameters and processor seconds per step.
One thread. Steps are timed afterwards, alternating between the choices, in processor time, so that other work on the machine
matters little. Learning rates are tuned for the base only. Runs that the result file already has are not repeated.

    python -m benchmarks.training.ablation --stories FILE --text FILE [--only NAME …] [--set section.key=value …] [--quick]

--set defines one more choice from recipe keys, named by them.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.lib.records import RESULTS, add_record_arguments, provenance
from benchmarks.training import ablation_candidates as candidates
from smalltale.config import load_recipe
from smalltale.corpus.build import build_corpus
from smalltale.corpus.config import CorpusConfig
from smalltale.corpus.corpus_folder import read_corpus
from smalltale.counting.count import count_parameters
from smalltale.files import read_stories, write_json
from smalltale.model.transformer import ModelConfig, Transformer
from smalltale.tokens.encode import encode_corpus
from smalltale.tokens.token_folder import TokenFolder, read_tokens
from smalltale.tokens.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from smalltale.training.batch_size import CACHED_TOKENS
from smalltale.training.batches import PackedRows
from smalltale.training.config import TrainingConfig
from smalltale.training.device import choose_device
from smalltale.training.distributed import Distributed
from smalltale.training.evaluate import evaluate
from smalltale.training.optim import Optimizers

BASE = (
    "tokenizer.vocabulary=2048",
    "model.vocabulary=2048",
    "model.layers=4",
    "model.width=192",
    "model.heads=2",
    "training.row_length=256",
    "training.batch_tokens=2048",
    "training.schedule.minutes=0",
)
"""The demo's recipe, 2.7 times smaller."""
STORIES = 300
"""Validation stories per run."""
TAIL = 0.1
"""Final share of the steps whose weights are averaged and evaluated in addition to the last weights."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One difference from the base."""

    name: str
    keys: tuple[str, ...] = ()
    """Recipe overrides."""
    model: Callable[[ModelConfig], Transformer] = Transformer
    change: Callable[[Optimizers], None] | None = None
    """Modifies the optimizers in place."""


CHOICES = (
    Choice(name="base"),
    Choice(name="no x0 and residual scalars", keys=("model.residual_scalars=false",)),
    Choice(name="no soft cap", keys=("model.soft_cap=0",)),
    Choice(name="soft cap 30", keys=("model.soft_cap=30",)),
    Choice(name="Newton-Schulz for Polar Express", change=candidates.newton_schulz),
    Choice(name="AdamW for Muon, rate 0.002", change=candidates.adam_on_matrices(0.002)),
    Choice(name="AdamW for Muon, rate 0.005", change=candidates.adam_on_matrices(0.005)),
    Choice(name="NorMuon", change=candidates.normuon),
    Choice(name="no weight decay", keys=("training.optim.weight_decay=0",)),
    Choice(name="plain weight decay for cautious", change=candidates.plain_decay),
    Choice(name="learned QK gain", model=candidates.QKGain),
    # The layers have 4 · 192² · (4 + 2 r) parameters; the feed-forward ratio r pays for the table.
    Choice(name="value embedding", keys=("model.mlp_ratio=2.6667",), model=candidates.ValueEmbedding),
    Choice(name="hash embedding of pairs", keys=("model.mlp_ratio=2.6667",), model=candidates.HashEmbedding),
    Choice(name="untied head", keys=("model.mlp_ratio=2.6667",), model=candidates.UntiedHead),
    Choice(name="2 layers, each twice", model=candidates.Looped),
    Choice(name="decay over all", keys=("training.schedule.decay_fraction=1.0",)),
    Choice(name="matrix rate 0.03", keys=("training.optim.matrix_rate=0.03",)),
    Choice(name="matrix rate 0.014", keys=("training.optim.matrix_rate=0.014",)),
)


@dataclass(frozen=True)
class TextData:
    """The data of all runs."""

    data: TokenFolder
    tokenizer: Tokenizer
    stories: list[str]


@contextmanager
def prepare_text(stories: Path, text: Path, validation_stories: int) -> Iterator[TextData]:
    """Encode the training text into a temporary folder; keep the first validation stories as raw text."""
    recipe = load_recipe("demo", BASE)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_corpus(CorpusConfig(sources=(str(stories),), validation=str(text)), folder / "corpus")
        texts = (document.text for document in read_corpus(folder / "corpus", "train"))
        tokenizer = train_tokenizer(texts, recipe.section("tokenizer", TokenizerConfig))
        tokenizer.save(folder / "tokenizer", {"made": "for a benchmark"})
        encode_corpus(folder / "corpus", folder / "tokenizer", folder / "tokens")
        yield TextData(read_tokens(folder / "tokens"), tokenizer, read_stories(text)[:validation_stories])


class Training:
    """The training of one choice, as smalltale's trainer does it."""

    def __init__(self, choice: Choice, seed: int, steps: int, text: TextData) -> None:
        recipe = load_recipe("demo", (*BASE, f"training.schedule.steps={steps}", *choice.keys))
        self.shape, self.config = (
            recipe.section("model", ModelConfig),
            recipe.section("training", TrainingConfig),
        )
        device = choose_device("cpu")
        torch.manual_seed(seed)
        self.model, self.steps = choice.model(self.shape), steps
        self.optimizers = Optimizers(self.model, self.config.optim, dtype=device.dtype, compiled=True)
        if choice.change is not None:
            choice.change(self.optimizers)
        self.gradients = candidates.GradientsWithIds(
            self.model,
            PackedRows(text.data, self.config.row_length, seed=seed),
            device,
            Distributed(),
            head_rows=self.config.head_rows,
            compiled=True,
            max_micro_tokens=CACHED_TOKENS,
        )
        self.gradients.fit_micro_batch(self.config.batch_tokens)
        self.optimizers.zero_grad()

    def step(self, number: int) -> float:
        """Run one step; returns the loss before it."""
        self.optimizers.set_multiplier(self.config.schedule.multiplier(number / self.steps))
        loss = self.gradients.accumulate(number, self.config.batch_tokens)
        self.optimizers.step()
        return float(loss)


def train_choice(choice: Choice, seed: int, steps: int, text: TextData) -> dict[str, Any]:
    """Train one choice with one seed to the end."""
    torch._dynamo.reset()
    training = Training(choice, seed, steps, text)
    model = training.model
    average = [torch.zeros_like(parameter) for parameter in model.parameters()]
    tail, losses = max(1, round(TAIL * steps)), []
    for step in range(steps):
        losses.append(training.step(step))
        if step >= steps - tail:
            torch._foreach_add_(average, [parameter.detach() for parameter in model.parameters()])
    bits = evaluate(model, text.tokenizer, text.stories).bits_per_byte
    with torch.no_grad():
        for parameter, total in zip(model.parameters(), average, strict=True):
            parameter.copy_(total / tail)
    averaged_bits = evaluate(model, text.tokenizer, text.stories).bits_per_byte
    return {
        "choice": choice.name,
        "seed": seed,
        "steps": steps,
        "bits_per_byte": round(bits, 4),
        "bits_per_byte_of_averaged_tail": round(averaged_bits, 4),
        "loss": round(statistics.fmean(losses[-20:]), 4),
        "counted_parameters": count_parameters(choice.model(training.shape)).counted,
    }


def measure_step_seconds(choices: Sequence[Choice], text: TextData, rounds: int) -> dict[str, float]:
    """Processor seconds per step of each choice: median over rounds of four steps, alternating between the choices."""
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 100
    trainings = {choice.name: Training(choice, 0, 1000, text) for choice in choices}
    seconds: dict[str, list[float]] = {name: [] for name in trainings}
    for number in range(rounds + 1):
        for name, training in trainings.items():
            for step in range(4 * number, 4 * number + 4):
                began = time.process_time()
                training.step(step)
                if number:
                    seconds[name].append(time.process_time() - began)
    return {name: round(statistics.median(values), 4) for name, values in seconds.items()}


def build_table(runs: list[dict[str, Any]], seconds: dict[str, float]) -> list[dict[str, Any]]:
    """One row per choice: mean over seeds, difference from the base per seed, relative time per step."""
    base = {run["seed"]: run for run in runs if run["choice"] == "base"}
    rows = []
    for name in dict.fromkeys(run["choice"] for run in runs):
        own_runs = [run for run in runs if run["choice"] == name and run["seed"] in base]
        if not own_runs:
            continue
        rows.append(
            {
                "choice": name,
                "bits_per_byte": round(statistics.fmean(run["bits_per_byte"] for run in own_runs), 4),
                "against_base": [
                    round(run["bits_per_byte"] - base[run["seed"]]["bits_per_byte"], 4) for run in own_runs
                ],
                "averaged_tail": [
                    round(run["bits_per_byte_of_averaged_tail"] - run["bits_per_byte"], 4) for run in own_runs
                ],
                "counted_parameters": own_runs[0]["counted_parameters"],
                "time": round(seconds[name] / seconds["base"], 3) if name in seconds else None,
            }
        )
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    print(
        f"{'choice':34} {'bits/byte':>9} {'against base, per seed':>25} {'counted':>10} {'time per step':>14}"
    )
    for row in rows:
        differences = "  ".join(f"{difference:+.4f}" for difference in row["against_base"])
        print(
            f"{row['choice']:34} {row['bits_per_byte']:9.4f} {differences:>25} {row['counted_parameters']:10,} {row['time'] or 0:14.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stories", type=Path, required=True, help="training text")
    parser.add_argument("--text", type=Path, required=True, help="validation text")
    parser.add_argument("--only", nargs="*", help="names of choices; the base always runs")
    parser.add_argument("--set", dest="keys", nargs="*", default=[], help="recipe keys of one more choice")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=400)
    add_record_arguments(parser, RESULTS / "ablation-cpu.json")
    arguments = parser.parse_args()
    logging.getLogger("smalltale").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    steps, seeds, only = arguments.steps, arguments.seeds, arguments.only
    if arguments.quick:
        steps, seeds, only = 20, 1, ["NorMuon", "value embedding"]
    choices = [choice for choice in CHOICES if choice.name == "base" or only is None or choice.name in only]
    if arguments.keys:
        choices.append(Choice(name=" ".join(arguments.keys), keys=tuple(arguments.keys)))
    saved = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
    runs = [run for run in saved.get("runs", []) if run["steps"] == steps]
    seconds = saved.get("seconds_per_step", {})
    done = {(run["choice"], run["seed"]) for run in runs}

    def save() -> None:
        write_json(
            arguments.out,
            {
                "table": build_table(runs, seconds),
                "runs": runs,
                "seconds_per_step": seconds,
                "base": load_recipe("demo", BASE).as_dict(),
                "stories": len(text.stories),
                **provenance(("torch",), arguments.commit),
                "device": choose_device("cpu").name,
                "threads": 1,
                "quick": arguments.quick,
            },
        )

    with prepare_text(arguments.stories, arguments.text, 30 if arguments.quick else STORIES) as text:
        for choice in choices:
            for seed in range(seeds):
                if (choice.name, seed) in done:
                    continue
                runs.append(train_choice(choice, seed, steps, text) | {"commit": arguments.commit})
                print(json.dumps(runs[-1]), flush=True)
                save()
        if not {choice.name for choice in choices} <= seconds.keys():
            seconds = measure_step_seconds(choices, text, 1 if arguments.quick else 5)
            save()
    rows = build_table(runs, seconds)
    print_table(rows)
    print(json.dumps({row["choice"]: row["against_base"] for row in rows}))


if __name__ == "__main__":
    main()
