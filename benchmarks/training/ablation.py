"""Which choices of the recipe earn their place: each against the base, at equal steps and equal counted parameters.

In: a training and a validation text. Out: results/ablation-cpu.json, a table, and a JSON line: for each choice and seed the
bits per byte, the difference from the base of the same seed, counted parameters and the processor's seconds a step.
Beware: one thread. Steps are timed afterwards, the choices in turn, in seconds of the processor's own, so that other work on the
machine counts little. Rates are the base's, tuned for no other choice. A run that is in the file is not made again.

    python -m benchmarks.training.ablation --stories FILE --text FILE [--only NAME …] [--set section.key=value …] [--quick]

--set makes a choice of one's own from recipe keys; it is named by them.
"""

from __future__ import annotations

import argparse
import importlib.metadata
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
from benchmarks.training import ablation_candidates as new

from smalltale.config import load_recipe
from smalltale.corpus.build import build_corpus
from smalltale.corpus.config import CorpusConfig
from smalltale.corpus.corpus_folder import read_corpus
from smalltale.counting.count import count_parameters
from smalltale.files import git_commit, read_stories, write_json
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

HERE = Path(__file__).parents[1]
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
"""Validation stories a run is measured on."""
TAIL = 0.1
"""Share of the steps whose weights are averaged, beside the last weights."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One thing that differs from the base."""

    name: str
    keys: tuple[str, ...] = ()
    """Recipe overrides."""
    model: Callable[[ModelConfig], Transformer] = Transformer
    change: Callable[[Optimizers], None] | None = None
    """What is done to the optimizers."""


CHOICES = (
    Choice(name="base"),
    Choice(name="no x0 and residual scalars", keys=("model.residual_scalars=false",)),
    Choice(name="no soft cap", keys=("model.soft_cap=0",)),
    Choice(name="soft cap 30", keys=("model.soft_cap=30",)),
    Choice(name="Newton-Schulz for Polar Express", change=new.newton_schulz),
    Choice(name="AdamW for Muon, rate 0.002", change=new.adam_on_matrices(0.002)),
    Choice(name="AdamW for Muon, rate 0.005", change=new.adam_on_matrices(0.005)),
    Choice(name="NorMuon", change=new.normuon),
    Choice(name="no weight decay", keys=("training.optim.weight_decay=0",)),
    Choice(name="plain weight decay for cautious", change=new.plain_decay),
    Choice(name="learned QK gain", model=new.QKGain),
    # Of 4 · 192² · (4 + 2 r) in the layers, what the table costs is taken from the feed-forward parts.
    Choice(name="value embedding", keys=("model.mlp_ratio=2.6667",), model=new.ValueEmbedding),
    Choice(name="hash embedding of pairs", keys=("model.mlp_ratio=2.6667",), model=new.HashEmbedding),
    Choice(name="untied head", keys=("model.mlp_ratio=2.6667",), model=new.UntiedHead),
    Choice(name="2 layers, each twice", model=new.Looped),
    Choice(name="decay over all", keys=("training.schedule.decay_fraction=1.0",)),
    Choice(name="matrix rate 0.03", keys=("training.optim.matrix_rate=0.03",)),
    Choice(name="matrix rate 0.014", keys=("training.optim.matrix_rate=0.014",)),
)


@dataclass(frozen=True)
class Text:
    """What all runs share."""

    data: TokenFolder
    tokenizer: Tokenizer
    stories: list[str]


@contextmanager
def prepared(stories: Path, text: Path, seen: int) -> Iterator[Text]:
    """The training text as tokens in a temporary place, and the first `seen` validation stories as they are."""
    recipe = load_recipe("demo", BASE)
    with tempfile.TemporaryDirectory() as held:
        folder = Path(held)
        build_corpus(CorpusConfig(sources=(str(stories),), validation=str(text)), folder / "corpus")
        texts = (each.text for each in read_corpus(folder / "corpus", "train"))
        tokenizer = train_tokenizer(texts, recipe.section("tokenizer", TokenizerConfig))
        tokenizer.save(folder / "tokenizer", {"made": "for a benchmark"})
        encode_corpus(folder / "corpus", folder / "tokenizer", folder / "tokens")
        yield Text(read_tokens(folder / "tokens"), tokenizer, read_stories(text)[:seen])


class Training:
    """One choice in training, as smalltale's loop trains it."""

    def __init__(self, choice: Choice, seed: int, steps: int, text: Text) -> None:
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
        self.gradients = new.TellingGradients(
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
        """Returns the loss before it."""
        self.optimizers.set_multiplier(self.config.schedule.multiplier(number / self.steps))
        loss = self.gradients.accumulate(number, self.config.batch_tokens)
        self.optimizers.step()
        return float(loss)


def run(choice: Choice, seed: int, steps: int, text: Text) -> dict[str, Any]:
    """Train one choice with one seed to its end."""
    torch._dynamo.reset()
    training = Training(choice, seed, steps, text)
    model = training.model
    average = [torch.zeros_like(each) for each in model.parameters()]
    tail, losses = max(1, round(TAIL * steps)), []
    for step in range(steps):
        losses.append(training.step(step))
        if step >= steps - tail:
            torch._foreach_add_(average, [each.detach() for each in model.parameters()])
    bits = evaluate(model, text.tokenizer, text.stories).bits_per_byte
    with torch.no_grad():
        for parameter, total in zip(model.parameters(), average, strict=True):
            parameter.copy_(total / tail)
    of_average = evaluate(model, text.tokenizer, text.stories).bits_per_byte
    return {
        "choice": choice.name,
        "seed": seed,
        "steps": steps,
        "bits_per_byte": round(bits, 4),
        "bits_per_byte_of_averaged_tail": round(of_average, 4),
        "loss": round(statistics.fmean(losses[-20:]), 4),
        "counted_parameters": count_parameters(choice.model(training.shape)).counted,
    }


def pace(choices: Sequence[Choice], text: Text, rounds: int) -> dict[str, float]:
    """The processor's seconds that a step of each takes: a median over rounds of four steps, all choices in turn."""
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 100
    trainings = {each.name: Training(each, 0, 1000, text) for each in choices}
    taken: dict[str, list[float]] = {name: [] for name in trainings}
    for number in range(rounds + 1):
        for name, training in trainings.items():
            for step in range(4 * number, 4 * number + 4):
                began = time.process_time()
                training.step(step)
                if number:
                    taken[name].append(time.process_time() - began)
    return {name: round(statistics.median(each), 4) for name, each in taken.items()}


def table(runs: list[dict[str, Any]], seconds: dict[str, float]) -> list[dict[str, Any]]:
    """A row a choice: means over the seeds, what each seed lost or won against the base, a step's time against its."""
    base = {each["seed"]: each for each in runs if each["choice"] == "base"}
    rows = []
    for name in dict.fromkeys(each["choice"] for each in runs):
        mine = [each for each in runs if each["choice"] == name and each["seed"] in base]
        if not mine:
            continue
        rows.append(
            {
                "choice": name,
                "bits_per_byte": round(statistics.fmean(each["bits_per_byte"] for each in mine), 4),
                "against_base": [
                    round(each["bits_per_byte"] - base[each["seed"]]["bits_per_byte"], 4) for each in mine
                ],
                "averaged_tail": [
                    round(each["bits_per_byte_of_averaged_tail"] - each["bits_per_byte"], 4) for each in mine
                ],
                "counted_parameters": mine[0]["counted_parameters"],
                "time": round(seconds[name] / seconds["base"], 3) if name in seconds else None,
            }
        )
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    print(
        f"{'choice':34} {'bits/byte':>9} {'against the base, a seed':>25} {'counted':>10} {'time of a step':>14}"
    )
    for row in rows:
        differences = "  ".join(f"{each:+.4f}" for each in row["against_base"])
        print(
            f"{row['choice']:34} {row['bits_per_byte']:9.4f} {differences:>25} {row['counted_parameters']:10,} {row['time'] or 0:14.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stories", type=Path, required=True, help="training text")
    parser.add_argument("--text", type=Path, required=True, help="validation text")
    parser.add_argument("--only", nargs="*", help="names of choices; the base is always made")
    parser.add_argument("--set", dest="keys", nargs="*", default=[], help="recipe keys, as one choice more")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--quick", action="store_true", help="three choices, one seed, 20 steps")
    parser.add_argument("--commit", default=git_commit(), help="where there is no git")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "ablation-cpu.json")
    chosen = parser.parse_args()
    logging.getLogger("smalltale").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    steps, seeds, only = chosen.steps, chosen.seeds, chosen.only
    if chosen.quick:
        steps, seeds, only = 20, 1, ["NorMuon", "value embedding"]
    choices = [each for each in CHOICES if each.name == "base" or only is None or each.name in only]
    if chosen.keys:
        choices.append(Choice(name=" ".join(chosen.keys), keys=tuple(chosen.keys)))
    held = json.loads(chosen.out.read_text(encoding="utf-8")) if chosen.out.exists() else {}
    runs = [each for each in held.get("runs", []) if each["steps"] == steps]
    seconds = held.get("seconds_per_step", {})
    done = {(each["choice"], each["seed"]) for each in runs}

    def keep() -> None:
        write_json(
            chosen.out,
            {
                "table": table(runs, seconds),
                "runs": runs,
                "seconds_per_step": seconds,
                "base": load_recipe("demo", BASE).as_dict(),
                "stories": len(text.stories),
                "machine": choose_device("cpu").name,
                "threads": 1,
                "versions": {"torch": importlib.metadata.version("torch")},
                "quick": chosen.quick,
            },
        )

    with prepared(chosen.stories, chosen.text, 30 if chosen.quick else STORIES) as text:
        for choice in choices:
            for seed in range(seeds):
                if (choice.name, seed) in done:
                    continue
                runs.append(run(choice, seed, steps, text) | {"commit": chosen.commit})
                print(json.dumps(runs[-1]), flush=True)
                keep()
        if not {each.name for each in choices} <= seconds.keys():
            seconds = pace(choices, text, 1 if chosen.quick else 5)
            keep()
    rows = table(runs, seconds)
    show(rows)
    print(json.dumps({row["choice"]: row["against_base"] for row in rows}))


if __name__ == "__main__":
    main()
