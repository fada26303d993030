"""How training speeds up with more processes: 1, 2, 4, 8 GPUs of one host, or processes on a CPU.

In: a token folder, or nothing (our fables). Out: results/scaling-DEVICE.json and one JSON line: tokens a second, efficiency
(speed ÷ ranks ÷ one rank's speed), the share of a step spent in communication, memory, and the loss after equal tokens.
Beware: `weak` keeps the batch a rank, `strong` the whole batch; on a CPU each rank has one thread, and ranks beyond the
cores share them. NVLink multicast stays off.

    python -m benchmarks.training.scaling [--ranks 1 2 4 8] [--shapes small medium large] [--tokens FOLDER] [--quick] [--expect]
"""

from __future__ import annotations

import argparse
import importlib.metadata
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
from benchmarks.lib.peers import ON_CPU, ON_GPU, token_folder

from smalltale.files import git_commit
from smalltale.machine import usable_cores
from smalltale.model.transformer import ModelConfig, Transformer
from smalltale.tokens.token_folder import read_tokens
from smalltale.training.batch_size import max_tokens_in_memory
from smalltale.training.batches import PackedRows
from smalltale.training.device import choose_device
from smalltale.training.distributed import init_distributed
from smalltale.training.gradients import CudaGraphFunction, GradientAccumulator
from smalltale.training.optim import OptimConfig, Optimizers
from smalltale.training.throughput import memory_usage

HERE = Path(__file__).parents[1]
NO_MULTICAST = {
    "NCCL_NVLS_ENABLE": "0",
    "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
    "NVSHMEM_DISABLE_NVLS": "1",
}
LINK_BYTES_A_SECOND = 450e9
"""NVLink of an H200, one direction (NVIDIA's data sheet: 900 GB/s both ways)."""

A_RANK_ON_GPU = 131072
"""Tokens a step of one GPU where the batch a rank is fixed."""


def worker(told: dict[str, Any]) -> None:
    """One rank: train, and let the first rank write what was measured."""
    layers, width, heads = told["shape"]
    with init_distributed() as ranks:
        device = choose_device("auto", ranks.local_rank)
        data = read_tokens(Path(told["tokens"]))
        torch.manual_seed(0)
        shape = ModelConfig(
            vocabulary=data.meta["vocabulary"],
            layers=layers,
            width=width,
            heads=heads,
            context=told["length"],
        )
        model = Transformer(shape).to(device.torch_device)
        optimizers = Optimizers(model, OptimConfig(), ranks)
        on = device.torch_device
        rows = PackedRows(
            data, told["length"], seed=0, rank=ranks.rank, world_size=ranks.world_size, device=on
        )
        compiled = device.compiles and device.kind == "cuda"
        gradients = GradientAccumulator(
            model,
            rows,
            device,
            ranks,
            head_rows=2048,
            compiled=compiled,
            max_micro_tokens=max_tokens_in_memory(shape, device),
        )
        optimizers.set_multiplier(0.0)
        gradients.fit_micro_batch(told["batch_tokens"])
        update = CudaGraphFunction(optimizers.step, (), on) if compiled else optimizers.step
        optimizers.reset()
        optimizers.set_multiplier(0.3)
        seconds, alone, loss = [], [], 0.0
        for step in range(told["steps"]):
            device.synchronize()
            began = time.perf_counter()
            share = gradients.accumulate(step, told["batch_tokens"])
            update()
            (loss,) = ranks.all_reduce_sum(float(share))
            device.synchronize()
            seconds.append(time.perf_counter() - began)
        for _ in range(4):  # the same work without sending
            device.synchronize()
            began = time.perf_counter()
            for plan in gradients.layouts(0, told["batch_tokens"]):
                gradients.add_micro_batch(
                    plan, 1 / told["batch_tokens"]
                )  # not 0: a GPU multiplies zeros faster
            device.synchronize()
            alone.append(time.perf_counter() - began)
        sending = []
        for _ in range(4):
            device.synchronize()
            began = time.perf_counter()
            gradients.accumulate(0, told["batch_tokens"])
            device.synchronize()
            sending.append(time.perf_counter() - began)
        optimizers.zero_grad()
        step_seconds = statistics.median(seconds[2:])
        if ranks.is_main:
            extra = max(0.0, statistics.median(sending[1:]) - statistics.median(alone[1:]))
            Path(told["out"]).write_text(
                json.dumps(
                    {
                        "ranks": ranks.world_size,
                        "batch_tokens": told["batch_tokens"],
                        "tokens_per_second": round(told["batch_tokens"] / step_seconds),
                        "communication_share": round(extra / step_seconds, 3),
                        "memory_peak_bytes": memory_usage(device)[1],
                        "loss": round(loss, 4),
                        "tokens": told["batch_tokens"] * told["steps"],
                        "parameters": sum(each.numel() for each in model.parameters()),
                        "device": device.name,
                        "kind": device.kind,
                    }
                )
            )


def start(ranks: int, told: dict[str, Any]) -> dict[str, Any]:
    """Run so many workers under torchrun. Ends the program where they fail."""
    with tempfile.TemporaryDirectory() as held:
        told = {**told, "out": str(Path(held) / "measured.json")}
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        if ranks == 1:
            words = [sys.executable]
        environment = {**os.environ, **NO_MULTICAST, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([*words, __file__, "--worker", json.dumps(told)], env=environment)
        if done.returncode:
            sys.exit(f"{ranks} ranks failed; their messages stand above")
        found: dict[str, Any] = json.loads(Path(told["out"]).read_text())
    print(json.dumps(found), flush=True)
    return found


def expectation() -> dict[str, Any]:
    """Computed for several GPUs from one's measured speed, as if nothing overlapped and small batches cost nothing.

    Where a shape was not measured, its speed is the medium shape's with the work of a token in proportion.
    """
    measured = json.loads((HERE / "results" / "training-cuda.json").read_text(encoding="utf-8"))["shapes"]
    speeds = {name: rows["ours"]["tokens_per_second"] for name, rows in measured.items() if "ours" in rows}
    found: dict[str, Any] = {}
    for name, (layers, width, heads) in ON_GPU.items():
        shape = ModelConfig(vocabulary=8192, layers=layers, width=width, heads=heads)
        speed = speeds.get(name) or speeds["medium"] * found["medium"]["flops"] / shape.flops_per_token(512)
        in_layers = shape.matrix_parameters() - shape.vocabulary * width
        compute = A_RANK_ON_GPU / speed
        found[name] = {"flops": shape.flops_per_token(512), "measured": name in speeds}
        for ranks in (2, 4, 8):
            # Each rank sends and gets its share of the sum of float32 gradients, then of the bfloat16 updates.
            sent = (ranks - 1) / ranks * (2 * 4 * shape.matrix_parameters() + 2 * in_layers)
            sending = sent / LINK_BYTES_A_SECOND
            found[name][str(ranks)] = {
                "megabytes_sent": round(sent / 1e6),
                "sending_ms": round(1000 * sending, 2),
                "compute_ms": round(1000 * compute, 1),
                "efficiency_weak": round(compute / (compute + sending), 3),
                "efficiency_strong": round(compute / (compute + ranks * sending), 3),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="*")
    parser.add_argument("--shapes", nargs="*")
    parser.add_argument("--tokens", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--commit", default=git_commit(), help="where there is no git")
    parser.add_argument("--expect", action="store_true", help="only print what is computed for several H200s")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    if chosen.worker:
        worker(json.loads(chosen.worker))
        return
    if chosen.expect:
        print(json.dumps(expectation(), indent=2))
        return
    gpus = torch.cuda.device_count()
    counts = chosen.ranks or ([each for each in (1, 2, 4, 8) if each <= gpus] if gpus else [1, 2, 4])
    known = ON_GPU if gpus else ON_CPU
    names = chosen.shapes or list(known)
    a_rank = A_RANK_ON_GPU if gpus else 4096
    table: dict[str, dict[str, list[dict[str, Any]]]] = {}
    with token_folder(chosen.tokens, 8192 if gpus else 4096) as folder:
        for name in names:
            told = {
                "shape": (ON_GPU | ON_CPU)[name],
                "tokens": str(folder.resolve()),
                "length": 512,
                "steps": 4 if chosen.quick else 20,
            }
            most = max(counts)
            weak = [start(each, {**told, "batch_tokens": a_rank * each}) for each in counts]
            # At the most ranks both are the same run.
            strong = [start(each, {**told, "batch_tokens": a_rank * most}) for each in counts if each < most]
            table[name] = {"weak": with_efficiency(weak), "strong": with_efficiency([*strong, weak[-1]])}
            result = result_of(table, counts, chosen)
            # After each shape, so that a machine that goes in the middle takes one shape with it.
            out = chosen.out or HERE / "results" / f"scaling-{weak[0]['kind']}.json"
            out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key != "shapes"}))


def with_efficiency(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with each one's speed a rank as a share of the first's."""
    one = rows[0]["tokens_per_second"] / rows[0]["ranks"]
    return [{**row, "efficiency": round(row["tokens_per_second"] / row["ranks"] / one, 3)} for row in rows]


def result_of(
    table: dict[str, dict[str, list[dict[str, Any]]]], counts: list[int], chosen: argparse.Namespace
) -> dict[str, Any]:
    """What is written, of the shapes measured so far; its headline is the largest one's."""
    last = max(table.values(), key=lambda rows: int(rows["weak"][0]["parameters"]))
    return {
        "efficiency": last["weak"][-1]["efficiency"],
        "ranks": counts[-1],
        "loss_spread": round(
            max(row["loss"] for row in last["strong"]) - min(row["loss"] for row in last["strong"]), 4
        ),
        "shapes": table,
        "expected_on_h200": expectation(),
        "cores": usable_cores(),
        "machine": last["weak"][0]["device"],
        "versions": {"torch": importlib.metadata.version("torch")},
        "commit": chosen.commit,
        "quick": chosen.quick,
    }


if __name__ == "__main__":
    main()
