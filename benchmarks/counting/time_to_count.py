"""How long counting takes: GPT-2 small at full size, and the recipe of each class.

In: nothing. Out: results/counting.json, and the same as one JSON object on the last line of standard output.
Each model is counted in a process of its own: seconds for the imports, for building the model and for counting it, the
processor's seconds beside the clock's, and the peak of memory.
Beware: the clock's seconds hold only where nothing else runs.

    python -m benchmarks.counting.time_to_count [--quick]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from smalltale.files import git_commit
from smalltale.machine import usable_cores

HERE = Path(__file__).parents[1]
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
    found = count_parameters(model)
    return {
        "model": name,
        "counted": found.counted,
        "proven": found.proven,
        "import_seconds": imported - began,
        "build_seconds": built - imported,
        "count_seconds": time.perf_counter() - built,
        "count_processor_seconds": time.process_time() - processor,
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    }


def measure(name: str, runs: int) -> dict[str, Any]:
    """The median of each figure over several processes."""
    several = []
    for _ in range(runs):
        ran = subprocess.run(
            [sys.executable, __file__, "--one", name], capture_output=True, text=True, check=True
        )
        several.append(json.loads(ran.stdout))
    figures = {
        key: round(statistics.median(each[key] for each in several), 3)
        for key, value in several[0].items()
        if isinstance(value, float)
    }
    return {**several[0], **figures, "runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="GPT-2 and the small class, once each")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "counting.json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(count_one(args.one)))
        return
    names, runs = ((GPT2, "small"), 1) if args.quick else ((GPT2, *CLASSES), 3)
    result = {
        "models": [measure(name, runs) for name in names],
        "load_before": os.getloadavg()[0],
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": usable_cores(),
            "python": platform.python_version(),
            "torch": importlib.metadata.version("torch"),
            "commit": git_commit(),
            "day": time.strftime("%Y-%m-%d"),
        },
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
