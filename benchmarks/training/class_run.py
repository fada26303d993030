"""Trains the model shape of a weight class on the available text for several epochs: its curve and its stories.

Input: a token folder and its tokenizer, the validation text. Output: results/run-SHAPE-DEVICE.json and a line of JSON: bits per byte
over training seconds, the figure on the whole validation text, and completions of our own prompts.
The text is small, so dropout and weight decay are arguments for several epochs; the shipped recipes are meant for the whole data.
Seconds are those of training steps; start and compilation are recorded separately.

    python -m benchmarks.training.class_run --tokens FOLDER --tokenizer FOLDER --text FILE [--shapes small medium large] [--quick]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.lib.peers import CPU_SHAPES, GPU_SHAPES
from benchmarks.lib.records import RESULTS, provenance, write_record
from smalltale.files import git_commit, read_stories
from smalltale.generation.generate import complete_prompts
from smalltale.generation.sampler import GenerationConfig
from smalltale.model.transformer import ModelConfig
from smalltale.tokens.token_folder import read_tokens
from smalltale.tokens.tokenizer import Tokenizer
from smalltale.training.checkpoint import load_checkpoint
from smalltale.training.config import TrainingConfig
from smalltale.training.device import choose_device
from smalltale.training.evaluate import evaluate
from smalltale.training.launch import train
from smalltale.training.metrics_file import read_metrics
from smalltale.training.optim import OptimConfig
from smalltale.training.schedule import ScheduleConfig

DROPOUT = {"demo": 0.1, "small": 0.25, "medium": 0.3, "large": 0.35}
"""Larger models overfit this small text sooner."""
PROMPTS = (
    "Once upon a time there was a small boat that was afraid of the rain.",
    "Ben found a red button in the garden. He wanted to",
    'The old owl looked at the mouse and said, "',
)


def read_curve(run: Path) -> list[dict[str, Any]]:
    """The evaluations of a run."""
    columns = ("tokens", "seconds", "loss", "bits_per_byte")
    rows = [row for row in read_metrics(run) if "bits_per_byte" in row]
    return [{key: round(row[key], 4) for key in columns} for row in rows]


def run(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    layers, width, heads = (GPU_SHAPES | CPU_SHAPES)[name]
    on_gpu = choose_device(arguments.device).kind == "cuda"
    data, tokenizer = read_tokens(arguments.tokens), Tokenizer.load(arguments.tokenizer)
    shape = ModelConfig(
        vocabulary=data.meta["vocabulary"], layers=layers, width=width, heads=heads, context=512
    )
    config = TrainingConfig(
        schedule=ScheduleConfig(minutes=0, steps=20 if arguments.quick else arguments.steps),
        optim=OptimConfig(matrix_rate=0.03, embedding_rate=0.006, weight_decay=0.7),
        row_length=512,
        batch_tokens=16384 if on_gpu else 4096,
        dropout=DROPOUT[name],
        head_rows=8192 if on_gpu else 512,
        device=arguments.device,
        validation_stories=300,
        evaluations=8,
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        began = time.perf_counter()
        summary = train(config, shape, arguments.tokens, tokenizer, out)
        total_seconds = time.perf_counter() - began
        curve = read_curve(out)
        model = load_checkpoint(out, choose_device(arguments.device).torch_device).model
        stories = read_stories(arguments.text)[: 100 if arguments.quick else None]
        bits = evaluate(model, tokenizer, stories).bits_per_byte
        completions = complete_prompts(model, tokenizer, PROMPTS, GenerationConfig(samples=2))
    device = choose_device(arguments.device)
    return {
        "name": name,
        "what": "a run of the class's shape on the development sample, several epochs; "
        "the shipped recipe is meant for the whole data",
        "bits_per_byte": round(bits, 4),
        "validation_stories": len(stories),
        "training_seconds": round(summary.seconds, 2),
        "compile_seconds": round(summary.compile_seconds, 1),
        "whole_seconds": round(total_seconds, 1),
        "tokens": summary.tokens,
        "steps": summary.steps,
        "tokens_per_second": round(summary.tokens_per_second),
        "curve": curve,
        "samples": [{"prompt": row.prompt, "completion": row.completion} for row in completions],
        "shape": asdict(shape),
        "training": asdict(config),
        **provenance(("torch",), arguments.commit),
        "device": device.name,
        "quick": arguments.quick,
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
    parser.add_argument("--commit", default=git_commit(), help="commit to record if there is no git")
    parser.add_argument("--out", type=Path, help="the folder of result files")
    arguments = parser.parse_args()
    kind = choose_device(arguments.device).kind
    for name in arguments.shapes or list(GPU_SHAPES if kind == "cuda" else CPU_SHAPES):
        record = run(name, arguments)
        out = (arguments.out or RESULTS) / f"run-{name}-{kind}.json"
        details = ("curve", "samples", "shape", "training")
        write_record(out, record, {key: field for key, field in record.items() if key not in details})
        torch._dynamo.reset()


if __name__ == "__main__":
    main()
