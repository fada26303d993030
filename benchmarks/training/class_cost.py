"""Time of one pass over all of TinyStories for each weight class, by machine.

Input: the class recipes, results/training-cuda.json and results/training-cpu.json. Output: the table of README.md, in Markdown.
Only the GPU of training-cuda.json is measured at the classes' own shapes; the rest is computed from COMPUTED.

    python -m benchmarks.training.class_cost
"""

from __future__ import annotations

import json

from benchmarks.lib.records import RESULTS
from smalltale.config import load_recipe
from smalltale.model.transformer import ModelConfig
from smalltale.training.config import TrainingConfig

TOKENS = 550e6
"""Tokens of all TinyStories (2.2 GB) with a vocabulary of 8,192."""
COMPUTED = {
    "RTX 4090": (165e12, 0.35),
    "M3 Max (40 cores)": (14e12, 0.30),
    "T4": (65e12, 0.25),
}
"""Peak FLOP/s of the training dtype (bfloat16, bfloat16, float16 with loss scaling), and the share of it that we assume."""


def main() -> None:
    names = ("small", "medium", "large")
    recipes = [load_recipe(name) for name in names]
    work = {
        recipe.name: recipe.section("model", ModelConfig).flops_per_token(
            recipe.section("training", TrainingConfig).row_length
        )
        for recipe in recipes
    }
    on_gpu, on_cpu = (
        json.loads((RESULTS / f"training-{kind}.json").read_text(encoding="utf-8"))
        for kind in ("cuda", "cpu")
    )
    measured = {name: rows["ours"]["tokens_per_second"] for name, rows in on_gpu["shapes"].items()}
    gpu_name = on_gpu.get("device", on_gpu["machine"])
    rows = {gpu_name: {}}
    for name in names:
        speed = measured.get(name) or measured["medium"] * work["medium"] / work[name]
        rows[gpu_name][name] = format_duration(speed, "measured" if name in measured else "computed")
    for machine, (peak, share) in COMPUTED.items():
        rows[machine] = {name: format_duration(peak * share / work[name], "computed") for name in names}
    demo = load_recipe("demo").section("model", ModelConfig)
    reached = on_cpu["shapes"]["demo"]["ours"]["tokens_per_second"] * demo.flops_per_token(256)
    rows[f"2 cores of an {on_cpu.get('device', on_cpu['machine'])}"] = {
        name: format_duration(reached / work[name], "computed") for name in names
    }
    print("| machine | " + " | ".join(names) + " |\n| --- | --- | --- | --- |")
    for machine, row in rows.items():
        print(f"| {machine} | " + " | ".join(row[name] for name in names) + " |")


def format_duration(tokens_per_second: float, basis: str) -> str:
    """The time of one pass, and whether it was measured or computed."""
    minutes = TOKENS / tokens_per_second / 60
    number, unit = (minutes, "min") if minutes < 100 else (minutes / 60, "h")
    return f"{number:.{int(number < 10)}f} {unit} ({basis})"


if __name__ == "__main__":
    main()
