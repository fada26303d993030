"""Training tokens per second against nanoGPT, llama2.c and transformers' Trainer, in one run on one machine.

Input: checkouts of the peers. Output: results/training-DEVICE.json, and as the last line of standard output one JSON object with
the keys `ratio_nanogpt`, `ratio_llama2c`, `ratio_trainer` (ours divided by the peer, the smallest over the shapes).
Steps are whole optimizer steps with data loading, after warm-up; the trainers alternate, and each figure is a median of windows.

    python -m benchmarks.training.throughput --nanogpt PATH --llama2c PATH [--tokens FOLDER] [--quick] [--device auto]
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.lib.peers import (
    CPU_SHAPES,
    GPU_SHAPES,
    HuggingFace,
    Llama2C,
    NanoGPT,
    Ours,
    Shape,
    Trainer,
    open_token_folder,
)
from benchmarks.lib.records import RESULTS, add_record_arguments, provenance, write_record
from smalltale.tokens.token_folder import TokenFolder, read_tokens
from smalltale.training.device import Device, choose_device
from smalltale.training.optim import OptimConfig

SMALLEST = {(512, 8), (256, 6)}
"""Width and layers of the shapes that transformers' Trainer runs too; larger ones take it minutes."""
WINDOWS = 5


def make_trainers(
    arguments: argparse.Namespace, shape: Shape, data: TokenFolder, device: Device
) -> dict[str, Callable[[], Trainer]]:
    factories: dict[str, Callable[[], Trainer]] = {"ours": lambda: Ours(shape, data, device, OptimConfig())}
    if arguments.nanogpt:
        factories["nanogpt"] = lambda: NanoGPT(arguments.nanogpt, shape, data, device)
    if arguments.llama2c:
        factories["llama2c"] = lambda: Llama2C(arguments.llama2c, shape, data, device)
    if not arguments.no_trainer and (shape.width, shape.layers) in SMALLEST:
        factories["trainer"] = lambda: HuggingFace(shape, data, device)
    return factories


def compare(
    factories: dict[str, Callable[[], Trainer]], shape: Shape, windows: int, steps: int
) -> dict[str, Any]:
    """Tokens per second of each trainer, alternating."""
    trainers, starts, speeds = {}, {}, {name: [] for name in factories}
    for name, make in factories.items():
        began = time.perf_counter()
        trainers[name] = make()
        trainers[name].steps(3)
        starts[name] = time.perf_counter() - began
        print(f"  {name} started in {starts[name]:.0f} s", flush=True)
    for _ in range(windows):
        for name, trainer in trainers.items():
            speeds[name].append(shape.batch_tokens / statistics.median(trainer.steps(steps)))
    flops = shape.our_config().flops_per_token(shape.length)
    table = {
        name: {
            "tokens_per_second": round(statistics.median(rates)),
            "slowest": round(min(rates)),
            "fastest": round(max(rates)),
            "teraflops_of_our_shape": round(statistics.median(rates) * flops / 1e12, 1),
            "start_seconds": round(starts[name], 1),
            "parameters": trainers[name].parameters,
            "loss": round(trainers[name].loss, 3) if trainers[name].loss == trainers[name].loss else None,
        }
        for name, rates in speeds.items()
    }
    for name, row in table.items():
        print(
            f"  {name}: {row['tokens_per_second']:,} tokens/s ({row['slowest']:,} to {row['fastest']:,})",
            flush=True,
        )
    return table


def matmul_teraflops(device: Device) -> float:
    """Measured TFLOP/s of a large matrix product in the training dtype, the denominator of MFU."""
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
    parser.add_argument("--no-trainer", action="store_true", help="skip transformers' Trainer")
    parser.add_argument("--tokens", type=Path, help="a token folder (default: made from our fables)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--shapes", nargs="*", help="small, medium, large; demo on a CPU")
    parser.add_argument(
        "--micro-tokens",
        type=int,
        default=0,
        help="micro-batch in tokens for all trainers, if memory is short",
    )
    add_record_arguments(parser)
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    on_gpu = device.kind == "cuda"
    shapes = GPU_SHAPES if on_gpu else CPU_SHAPES
    names = arguments.shapes or (list(shapes)[:1] if arguments.quick else list(shapes))
    windows, steps = (2, 2 if not on_gpu else 5) if arguments.quick else (WINDOWS, 10 if on_gpu else 4)
    peak = matmul_teraflops(device)
    out = arguments.out or RESULTS / f"training-{device.kind}.json"
    table: dict[str, Any] = {}
    with open_token_folder(arguments.tokens, 8192 if on_gpu else 4096) as folder:
        data = read_tokens(folder)
        for name in names:
            layers, width, heads = (GPU_SHAPES | CPU_SHAPES)[name]
            shape = Shape(
                layers=layers,
                width=width,
                heads=heads,
                vocabulary=data.meta["vocabulary"],
                length=512 if on_gpu else 256,
                batch_tokens=131072 if on_gpu else 2048 if arguments.quick else 8192,
                our_micro_tokens=arguments.micro_tokens,
                micro_tokens=arguments.micro_tokens
                or (65536 if on_gpu else 2048 if arguments.quick else 4096),
            )
            print(f"{name}: {shape}", flush=True)
            table[name] = compare(make_trainers(arguments, shape, data, device), shape, windows, steps)
            for row in table[name].values():
                row["mfu"] = round(row["teraflops_of_our_shape"] / peak, 3)
            # Written after each shape: a machine that is taken away costs one shape.
            write_record(out, build_result(table, peak, device, arguments))
            torch._dynamo.reset()
            gc.collect()
            if on_gpu:
                torch.cuda.empty_cache()


def build_result(
    table: dict[str, Any], peak: float, device: Device, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Ratios, the shapes that they come from, and the machine."""
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
        **provenance(("torch", "transformers"), arguments.commit),
        "device": device.name,
        "threads": torch.get_num_threads(),
        "quick": arguments.quick,
    }


if __name__ == "__main__":
    main()
