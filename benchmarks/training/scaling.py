"""Training speed with 1, 2, 4 and 8 GPUs of one host, or with several processes on a CPU.

Input: a token folder, or nothing (our fables). Output: results/scaling-DEVICE.json and one JSON line: tokens per second, efficiency
(speed divided by ranks and by the speed of one rank), share of a step spent in communication, memory, loss after equal tokens.
`weak` keeps the batch per rank, `strong` the total batch. On a CPU each rank has one thread, and more ranks than cores share them.
NVLink multicast stays off.

    python -m benchmarks.training.scaling [--ranks 1 2 4 8] [--shapes small medium large] [--tokens FOLDER] [--quick] [--expect]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.lib.peers import CPU_SHAPES, GPU_SHAPES, open_token_folder
from benchmarks.lib.records import RESULTS, add_record_arguments, provenance, write_record
from smalltale.model.transformer import ModelConfig, Transformer
from smalltale.tokens.token_folder import read_tokens
from smalltale.training.batch_size import max_tokens_in_memory
from smalltale.training.batches import PackedRows
from smalltale.training.device import choose_device
from smalltale.training.distributed import init_distributed
from smalltale.training.gradients import CudaGraphFunction, GradientAccumulator
from smalltale.training.optim import OptimConfig, Optimizers
from smalltale.training.throughput import memory_usage

NO_MULTICAST = {
    "NCCL_NVLS_ENABLE": "0",
    "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
    "NVSHMEM_DISABLE_NVLS": "1",
}
LINK_BYTES_PER_SECOND = 450e9
"""NVLink of an H100 SXM or H200 in one direction (NVIDIA's data sheet: 900 GB/s in both directions)."""

TOKENS_PER_GPU = 131072
"""Tokens per step of one GPU in weak scaling."""


def run_worker(settings: dict[str, Any]) -> None:
    """Run one rank: train and measure; rank 0 writes the measurements."""
    layers, width, heads = settings["shape"]
    with init_distributed() as distributed:
        device = choose_device("auto", distributed.local_rank)
        data = read_tokens(Path(settings["tokens"]))
        torch.manual_seed(0)
        shape = ModelConfig(
            vocabulary=data.meta["vocabulary"],
            layers=layers,
            width=width,
            heads=heads,
            context=settings["length"],
        )
        model = Transformer(shape).to(device.torch_device)
        optimizers = Optimizers(model, OptimConfig(), distributed)
        rows = PackedRows(
            data,
            settings["length"],
            seed=0,
            rank=distributed.rank,
            world_size=distributed.world_size,
            device=device.torch_device,
        )
        compiled = device.compiles and device.kind == "cuda"
        gradients = GradientAccumulator(
            model,
            rows,
            device,
            distributed,
            head_rows=2048,
            compiled=compiled,
            max_micro_tokens=max_tokens_in_memory(shape, device),
        )
        optimizers.set_multiplier(0.0)
        gradients.fit_micro_batch(settings["batch_tokens"])
        update = CudaGraphFunction(optimizers.step, (), device.torch_device) if compiled else optimizers.step
        optimizers.reset()
        optimizers.set_multiplier(0.3)
        seconds, compute_seconds, loss = [], [], 0.0
        for step in range(settings["steps"]):
            device.synchronize()
            began = time.perf_counter()
            share = gradients.accumulate(step, settings["batch_tokens"])
            update()
            (loss,) = distributed.all_reduce_sum(float(share))
            device.synchronize()
            seconds.append(time.perf_counter() - began)
        gradient_scale = 1 / settings["batch_tokens"]  # Not 0: a GPU multiplies zeros faster.
        for _ in range(4):  # the same computation without communication
            device.synchronize()
            began = time.perf_counter()
            for layout in gradients.layouts(0, settings["batch_tokens"]):
                gradients.add_micro_batch(layout, gradient_scale)
            device.synchronize()
            compute_seconds.append(time.perf_counter() - began)
        step_seconds_with_communication = []
        for _ in range(4):
            device.synchronize()
            began = time.perf_counter()
            gradients.accumulate(0, settings["batch_tokens"])
            device.synchronize()
            step_seconds_with_communication.append(time.perf_counter() - began)
        optimizers.zero_grad()
        step_seconds = statistics.median(seconds[2:])
        if distributed.is_main:
            extra = max(
                0.0,
                statistics.median(step_seconds_with_communication[1:])
                - statistics.median(compute_seconds[1:]),
            )
            Path(settings["out"]).write_text(
                json.dumps(
                    {
                        "ranks": distributed.world_size,
                        "batch_tokens": settings["batch_tokens"],
                        "tokens_per_second": round(settings["batch_tokens"] / step_seconds),
                        "communication_share": round(extra / step_seconds, 3),
                        "memory_peak_bytes": memory_usage(device)[1],
                        "loss": round(loss, 4),
                        "tokens": settings["batch_tokens"] * settings["steps"],
                        "parameters": sum(parameter.numel() for parameter in model.parameters()),
                        "device": device.name,
                        "kind": device.kind,
                    }
                )
            )


def run_ranks(ranks: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Run `ranks` workers under torchrun. Exits if they fail."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {**settings, "out": str(Path(folder) / "measured.json")}
        launcher = [sys.executable]
        if ranks > 1:
            launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        environment = {**os.environ, **NO_MULTICAST, "OMP_NUM_THREADS": "1"}
        command = [*launcher, "-m", "benchmarks.training.scaling", "--worker", json.dumps(settings)]
        if subprocess.run(command, env=environment).returncode:
            sys.exit(f"{ranks} ranks failed; see their messages above")
        measurements: dict[str, Any] = json.loads(Path(settings["out"]).read_text())
    print(json.dumps(measurements), flush=True)
    return measurements


def compute_expectation() -> dict[str, Any]:
    """Scaling over several GPUs computed from the speed of one GPU in results/training-cuda.json, named in `device`.

    Communication does not overlap with computation, and small batches are as fast as large ones. The speed of a shape that
    was not measured is the medium shape's, scaled by FLOPs per token.
    """
    record = json.loads((RESULTS / "training-cuda.json").read_text(encoding="utf-8"))
    speeds = {
        name: rows["ours"]["tokens_per_second"] for name, rows in record["shapes"].items() if "ours" in rows
    }
    expected: dict[str, Any] = {}
    for name, (layers, width, heads) in GPU_SHAPES.items():
        shape = ModelConfig(vocabulary=8192, layers=layers, width=width, heads=heads)
        flops = shape.flops_per_token(512)
        speed = speeds.get(name) or speeds["medium"] * expected["medium"]["flops"] / flops
        in_layers = shape.matrix_parameters() - shape.vocabulary * width
        compute = TOKENS_PER_GPU / speed
        expected[name] = {"flops": flops, "measured": name in speeds}
        for ranks in (2, 4, 8):
            # Each rank sends and receives its share of the float32 gradients, then of the bfloat16 updates.
            sent = (ranks - 1) / ranks * (2 * 4 * shape.matrix_parameters() + 2 * in_layers)
            sending = sent / LINK_BYTES_PER_SECOND
            expected[name][str(ranks)] = {
                "megabytes_sent": round(sent / 1e6),
                "sending_ms": round(1000 * sending, 2),
                "compute_ms": round(1000 * compute, 1),
                "efficiency_weak": round(compute / (compute + sending), 3),
                "efficiency_strong": round(compute / (compute + ranks * sending), 3),
            }
    return {"device": record.get("device", record["machine"]), "shapes": expected}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="*")
    parser.add_argument("--shapes", nargs="*")
    parser.add_argument("--tokens", type=Path)
    add_record_arguments(parser)
    parser.add_argument("--expect", action="store_true", help="only print the scaling computed from one GPU")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        run_worker(json.loads(arguments.worker))
        return
    if arguments.expect:
        print(json.dumps(compute_expectation(), indent=2))
        return
    gpus = torch.cuda.device_count()
    counts = arguments.ranks or ([count for count in (1, 2, 4, 8) if count <= gpus] if gpus else [1, 2, 4])
    names = arguments.shapes or list(GPU_SHAPES if gpus else CPU_SHAPES)
    tokens_per_rank = TOKENS_PER_GPU if gpus else 4096
    table: dict[str, dict[str, list[dict[str, Any]]]] = {}
    with open_token_folder(arguments.tokens, 8192 if gpus else 4096) as folder:
        for name in names:
            settings = {
                "shape": (GPU_SHAPES | CPU_SHAPES)[name],
                "tokens": str(folder.resolve()),
                "length": 512,
                "steps": 4 if arguments.quick else 20,
            }
            max_ranks = max(counts)
            weak = [
                run_ranks(count, {**settings, "batch_tokens": tokens_per_rank * count}) for count in counts
            ]
            # With the largest number of ranks both are the same run.
            strong = [
                run_ranks(count, {**settings, "batch_tokens": tokens_per_rank * max_ranks})
                for count in counts
                if count < max_ranks
            ]
            table[name] = {"weak": add_efficiency(weak), "strong": add_efficiency([*strong, weak[-1]])}
            result = build_result(table, counts, arguments)
            out = arguments.out or RESULTS / f"scaling-{weak[0]['kind']}.json"
            # Written after each shape: a machine that is taken away costs one shape.
            write_record(out, result, {key: field for key, field in result.items() if key != "shapes"})


def add_efficiency(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add each row's speed per rank divided by that of the first row."""
    first = rows[0]["tokens_per_second"] / rows[0]["ranks"]
    return [{**row, "efficiency": round(row["tokens_per_second"] / row["ranks"] / first, 3)} for row in rows]


def build_result(
    table: dict[str, dict[str, list[dict[str, Any]]]], counts: list[int], arguments: argparse.Namespace
) -> dict[str, Any]:
    """The record of the shapes measured so far; its headline figures are those of the largest shape."""
    largest = max(table.values(), key=lambda rows: int(rows["weak"][0]["parameters"]))
    return {
        "efficiency": largest["weak"][-1]["efficiency"],
        "ranks": counts[-1],
        "loss_spread": round(
            max(row["loss"] for row in largest["strong"]) - min(row["loss"] for row in largest["strong"]), 4
        ),
        "shapes": table,
        "expected": compute_expectation(),
        **provenance(("torch",), arguments.commit),
        "device": largest["weak"][0]["device"],
        "quick": arguments.quick,
    }


if __name__ == "__main__":
    main()
