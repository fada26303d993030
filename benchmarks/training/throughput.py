"""How many tokens a second we train, against nanoGPT, llama2.c and transformers' Trainer, in one run on one machine.

In: checkouts of the peers that the user has. Out: results/training-DEVICE.json, and as the last line of standard output
one JSON object with the keys `ratio_nanogpt`, `ratio_llama2c`, `ratio_trainer` (ours ÷ the peer, the smallest over the shapes).
Beware: whole optimizer steps, data included, after warm-up; contenders take turns, each figure is a median of windows.

    python -m benchmarks.training.throughput --nanogpt PATH --llama2c PATH [--tokens FOLDER] [--quick] [--device auto]
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks.lib.peers import (
    ON_CPU,
    ON_GPU,
    HuggingFace,
    Llama2C,
    NanoGPT,
    Ours,
    Shape,
    Trainer,
    token_folder,
)

from smalltale.files import git_commit
from smalltale.machine import usable_cores
from smalltale.tokens.shards import TokenFolder, read_tokens
from smalltale.training.device import Device, choose_device
from smalltale.training.optim import OptimConfig

HERE = Path(__file__).parents[1]
SMALLEST = {(512, 8), (256, 6)}
"""Width and layers where transformers' Trainer runs too: it takes minutes at the larger ones."""
WINDOWS = 5


def contenders(
    chosen: argparse.Namespace, shape: Shape, data: TokenFolder, device: Device
) -> dict[str, Callable[[], Trainer]]:
    found: dict[str, Callable[[], Trainer]] = {"ours": lambda: Ours(shape, data, device, OptimConfig())}
    if chosen.nanogpt:
        found["nanogpt"] = lambda: NanoGPT(chosen.nanogpt, shape, data, device)
    if chosen.llama2c:
        found["llama2c"] = lambda: Llama2C(chosen.llama2c, shape, data, device)
    if not chosen.no_trainer and (shape.width, shape.layers) in SMALLEST:
        found["trainer"] = lambda: HuggingFace(shape, data, device)
    return found


def compare(made: dict[str, Callable[[], Trainer]], shape: Shape, windows: int, steps: int) -> dict[str, Any]:
    """Tokens a second of each contender, in turns."""
    trainers, starts, speeds = {}, {}, {name: [] for name in made}
    for name, make in made.items():
        began = time.perf_counter()
        trainers[name] = make()
        trainers[name].steps(3)
        starts[name] = time.perf_counter() - began
        print(f"  {name} is ready after {starts[name]:.0f} s", flush=True)
    for _ in range(windows):
        for name, trainer in trainers.items():
            speeds[name].append(shape.batch_tokens / statistics.median(trainer.steps(steps)))
    flops = shape.ours().flops_per_token(shape.length)
    table = {
        name: {
            "tokens_per_second": round(statistics.median(found)),
            "slowest": round(min(found)),
            "fastest": round(max(found)),
            "teraflops_of_our_shape": round(statistics.median(found) * flops / 1e12, 1),
            "start_seconds": round(starts[name], 1),
            "parameters": trainers[name].parameters,
            "loss": round(trainers[name].loss, 3) if trainers[name].loss == trainers[name].loss else None,
        }
        for name, found in speeds.items()
    }
    for name, row in table.items():
        print(
            f"  {name}: {row['tokens_per_second']:,} tokens/s ({row['slowest']:,} to {row['fastest']:,})",
            flush=True,
        )
    return table


def matrix_peak(device: Device) -> float:
    """TFLOP/s of a large product in the training type, measured: what MFU is a share of."""
    n = 8192 if device.kind == "cuda" else 2048
    x = torch.randn(n, n, device=device.torch_device).to(device.dtype)
    for _ in range(3):
        x @ x
    device.synchronize()
    began = time.perf_counter()
    for _ in range(10):
        x @ x
    device.synchronize()
    return 10 * 2 * n**3 / (time.perf_counter() - began) / 1e12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nanogpt", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--llama2c", type=Path, help="a checkout of llama2.c")
    parser.add_argument("--no-trainer", action="store_true", help="leave transformers' Trainer out")
    parser.add_argument("--tokens", type=Path, help="a token folder; without one, our fables")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--shapes", nargs="*", help="small, medium, large; demo on a CPU")
    parser.add_argument(
        "--micro-tokens",
        type=int,
        default=0,
        help="tokens at once, ours and theirs, where memory is short",
    )
    parser.add_argument("--quick", action="store_true", help="two windows of few steps, the smallest shape")
    parser.add_argument("--commit", default=git_commit(), help="where there is no git")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    device = choose_device(chosen.device)
    on_gpu = device.kind == "cuda"
    known = ON_GPU if on_gpu else ON_CPU
    names = chosen.shapes or (list(known)[:1] if chosen.quick else list(known))
    windows, steps = (2, 2 if not on_gpu else 5) if chosen.quick else (WINDOWS, 10 if on_gpu else 4)
    peak = matrix_peak(device)
    out = chosen.out or HERE / "results" / f"training-{device.kind}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    table: dict[str, Any] = {}
    with token_folder(chosen.tokens, 8192 if on_gpu else 4096) as folder:
        data = read_tokens(folder)
        for name in names:
            layers, width, heads = (ON_GPU | ON_CPU)[name]
            shape = Shape(
                layers=layers,
                width=width,
                heads=heads,
                vocabulary=data.meta["vocabulary"],
                length=512 if on_gpu else 256,
                batch_tokens=131072 if on_gpu else 2048 if chosen.quick else 8192,
                our_micro_tokens=chosen.micro_tokens,
                micro_tokens=chosen.micro_tokens or (65536 if on_gpu else 2048 if chosen.quick else 4096),
            )
            print(f"{name}: {shape}", flush=True)
            table[name] = compare(contenders(chosen, shape, data, device), shape, windows, steps)
            for row in table[name].values():
                row["mfu"] = round(row["teraflops_of_our_shape"] / peak, 3)
            result = result_of(table, peak, device, chosen)
            # After each shape, so that a machine that goes in the middle takes one shape with it.
            out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            torch._dynamo.reset()
            gc.collect()
            if on_gpu:
                torch.cuda.empty_cache()
    print(json.dumps(result))


def result_of(
    table: dict[str, Any], peak: float, device: Device, chosen: argparse.Namespace
) -> dict[str, Any]:
    """The ratios, the shapes they come from, and where they were measured."""
    ratios = {
        f"ratio_{peer}": round(
            min(
                rows["ours"]["tokens_per_second"] / rows[peer]["tokens_per_second"]
                for rows in table.values()
                if peer in rows
            ),
            2,
        )
        for peer in next(iter(table.values()))
        if peer != "ours"
    }
    return {
        **ratios,
        "shapes": table,
        "matrix_peak_teraflops": round(peak, 1),
        "dtype": str(device.dtype),
        "machine": device.name,
        "threads": torch.get_num_threads(),
        "cores": usable_cores(),
        "versions": {each: importlib.metadata.version(each) for each in ("torch", "transformers")},
        "commit": chosen.commit,
        "quick": chosen.quick,
    }


if __name__ == "__main__":
    main()
