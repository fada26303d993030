"""Time to count parameters: GPT-2 small at full size, and the recipe of each class.

Output: results/counting.json, and the same as one JSON object on the last line of standard output.
Each model is counted in a process of its own, which measures imports, model construction and counting, in wall-clock and
processor seconds, and the peak memory. Wall-clock seconds are meaningful only on a quiet machine.

    python -m benchmarks.counting.time_to_count [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

from benchmarks.lib.records import RESULTS, add_record_arguments, provenance, write_record

GPT2 = "gpt2"
CLASSES = ("small", "medium", "large")


def count_one(name: str) -> dict[str, Any]:
    """Count in this process; `name` is a recipe, or GPT-2 small."""
    began = time.perf_counter()
    from smalltale.config import load_recipe
    from smalltale.counting.count import count_parameters
    from smalltale.model.gpt import GPT, GPTConfig
    from smalltale.model.transformer import ModelConfig, Transformer

    imported = time.perf_counter()
    if name == GPT2:
        model: Any = GPT(
            GPTConfig(block_size=1024, vocab_size=50257, n_layer=12, n_head=12, n_embd=768, bias=True)
        )
    else:
        model = Transformer(load_recipe(name, []).section("model", ModelConfig))
    built, processor = time.perf_counter(), time.process_time()
    report = count_parameters(model)
    return {
        "model": name,
        "counted": report.counted,
        "proven": report.proven,
        "import_seconds": imported - began,
        "build_seconds": built - imported,
        "count_seconds": time.perf_counter() - built,
        "count_processor_seconds": time.process_time() - processor,
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    }


def measure(name: str, runs: int) -> dict[str, Any]:
    """Median of each figure over several processes."""
    results = []
    for _ in range(runs):
        command = [sys.executable, "-m", "benchmarks.counting.time_to_count", "--one", name]
        completed = subprocess.run(command, capture_output=True, text=True, check=True)
        results.append(json.loads(completed.stdout))
    figures = {
        key: round(statistics.median(result[key] for result in results), 3)
        for key, value in results[0].items()
        if isinstance(value, float)
    }
    return {**results[0], **figures, "runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_record_arguments(parser, RESULTS / "counting.json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(count_one(arguments.one)))
        return
    names, runs = ((GPT2, "small"), 1) if arguments.quick else ((GPT2, *CLASSES), 3)
    result = {
        "models": [measure(name, runs) for name in names],
        "load_before": os.getloadavg()[0],
        **provenance(("torch",), arguments.commit),
    }
    write_record(arguments.out, result)


if __name__ == "__main__":
    main()
