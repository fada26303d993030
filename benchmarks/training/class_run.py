"""A run of a weight class's shape on the text at hand, until it is read often enough: its curve and its stories.

In: a token folder and its tokenizer, the validation text. Out: results/run-SHAPE-DEVICE.json and a line of JSON: bits per byte
over training seconds, the figure on the whole validation text, and completions of our own prompts.
Beware: a run of the shape, on few stories read several times, with the dropout and decay that they ask for; the shipped
recipes are meant for the whole data. Seconds are those of training steps; starting and compiling stand beside them.

    python -m benchmarks.training.class_run --tokens FOLDER --tokenizer FOLDER --text FILE [--shapes small medium large] [--quick]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from benchmarks.lib.peers import ON_CPU, ON_GPU

from smalltale.files import git_commit, read_stories
from smalltale.generation.generate import complete_prompts
from smalltale.generation.sampler import GenerationConfig
from smalltale.model.transformer import ModelConfig
from smalltale.tokens.shards import read_tokens
from smalltale.tokens.tokenizer import Tokenizer
from smalltale.training.checkpoint import load_checkpoint
from smalltale.training.config import TrainingConfig
from smalltale.training.device import choose_device
from smalltale.training.evaluate import evaluate
from smalltale.training.launch import train
from smalltale.training.optim import OptimConfig
from smalltale.training.schedule import ScheduleConfig

HERE = Path(__file__).parents[1]
DROPOUT = {"demo": 0.1, "small": 0.25, "medium": 0.3, "large": 0.35}
"""The larger the model, the sooner it knows this little text by heart."""
PROMPTS = (
    "Once upon a time there was a small boat that was afraid of the rain.",
    "Ben found a red button in the garden. He wanted to",
    'The old owl looked at the mouse and said, "',
)


def curve_of(metrics: Path) -> list[dict[str, Any]]:
    """Each look at the validation stories; a step's lines are one row."""
    steps: dict[int, dict[str, Any]] = {}
    for line in metrics.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        steps.setdefault(row["step"], {}).update(row)
    kept = ("tokens", "seconds", "loss", "bits_per_byte")
    return [{key: round(row[key], 4) for key in kept} for row in steps.values() if "bits_per_byte" in row]


def run(name: str, chosen: argparse.Namespace) -> dict[str, Any]:
    layers, width, heads = (ON_GPU | ON_CPU)[name]
    on_gpu = choose_device(chosen.device).kind == "cuda"
    data, tokenizer = read_tokens(chosen.tokens), Tokenizer.load(chosen.tokenizer)
    shape = ModelConfig(
        vocabulary=data.meta["vocabulary"], layers=layers, width=width, heads=heads, context=512
    )
    config = TrainingConfig(
        schedule=ScheduleConfig(minutes=0, steps=20 if chosen.quick else chosen.steps),
        optim=OptimConfig(matrix_rate=0.03, embedding_rate=0.006, weight_decay=0.7),
        row_length=512,
        batch_tokens=16384 if on_gpu else 4096,
        dropout=DROPOUT[name],
        head_rows=8192 if on_gpu else 512,
        device=chosen.device,
        validation_stories=300,
        evaluations=8,
    )
    with tempfile.TemporaryDirectory() as held:
        out = Path(held) / "run"
        began = time.perf_counter()
        summary = train(config, shape, chosen.tokens, tokenizer, out)
        whole_seconds = time.perf_counter() - began
        curve = curve_of(out / "metrics.jsonl")
        model = load_checkpoint(out, choose_device(chosen.device).torch_device).model
        stories = read_stories(chosen.text)[: 100 if chosen.quick else None]
        bits = evaluate(model, tokenizer, stories).bits_per_byte
        written = complete_prompts(model, tokenizer, PROMPTS, GenerationConfig(samples=2))
    device = choose_device(chosen.device)
    return {
        "name": name,
        "what": "a run of the class's shape on the development sample, read several times; "
        "the shipped recipe is meant for the whole data",
        "bits_per_byte": round(bits, 4),
        "validation_stories": len(stories),
        "training_seconds": round(summary.seconds, 2),
        "compile_seconds": round(summary.compile_seconds, 1),
        "whole_seconds": round(whole_seconds, 1),
        "tokens": summary.tokens,
        "steps": summary.steps,
        "tokens_per_second": round(summary.tokens_per_second),
        "curve": curve,
        "samples": [{"prompt": each.prompt, "completion": each.completion} for each in written],
        "shape": asdict(shape),
        "training": asdict(config),
        "machine": device.name,
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"torch": importlib.metadata.version("torch")},
        "commit": chosen.commit,
        "quick": chosen.quick,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument(
        "--text", type=Path, required=True, help="validation stories, separated by <|endoftext|>"
    )
    parser.add_argument("--shapes", nargs="*")
    parser.add_argument("--steps", type=int, default=732, help="of 16,384 tokens on a GPU, 4,096 on a CPU")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--commit", default=git_commit(), help="where there is no git")
    parser.add_argument("--out", type=Path, help="a folder")
    chosen = parser.parse_args()
    kind = choose_device(chosen.device).kind
    for name in chosen.shapes or list(ON_GPU if kind == "cuda" else ON_CPU):
        record = run(name, chosen)
        out = (chosen.out or HERE / "results") / f"run-{name}-{kind}.json"
        out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        print(
            json.dumps(
                {
                    key: value
                    for key, value in record.items()
                    if key not in ("curve", "samples", "shape", "training")
                }
            ),
            flush=True,
        )
        torch._dynamo.reset()


if __name__ == "__main__":
    main()
