"""What a weight class costs in time: one pass over all of TinyStories, by machine.

In: the class recipes, results/training-cuda.json and results/training-cpu.json. Out: the table of README.md, in Markdown.
Beware: only the GPU of training-cuda.json is measured at the classes' own shapes; the rest is computed, as COMPUTED says.

    python -m benchmarks.training.class_cost
"""

from __future__ import annotations

import json
from pathlib import Path

from smalltale.config import load_recipe
from smalltale.model.transformer import ModelConfig
from smalltale.training.config import TrainingConfig

RESULTS = Path(__file__).parents[1] / "results"
TOKENS = 550e6
"""Of all TinyStories (2.2 GB) in a vocabulary of 8,192."""
COMPUTED = {
    "RTX 4090": (165e12, 0.35),
    "M3 Max (40 cores)": (14e12, 0.30),
    "T4": (65e12, 0.25),
}
"""Peak of the type that trains there (bfloat16, bfloat16, float16 with a scaled loss), and the share of it that we assume."""


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
    rows = {on_gpu["machine"]: {}}
    for name in names:
        speed = measured.get(name) or measured["medium"] * work["medium"] / work[name]
        rows[on_gpu["machine"]][name] = told(speed, "measured" if name in measured else "computed")
    for machine, (peak, share) in COMPUTED.items():
        rows[machine] = {name: told(peak * share / work[name], "computed") for name in names}
    demo = load_recipe("demo").section("model", ModelConfig)
    reached = on_cpu["shapes"]["demo"]["ours"]["tokens_per_second"] * demo.flops_per_token(256)
    rows[f"2 cores of an {on_cpu['machine']}"] = {
        name: told(reached / work[name], "computed") for name in names
    }
    print("| machine | " + " | ".join(names) + " |\n| --- | --- | --- | --- |")
    for machine, row in rows.items():
        print(f"| {machine} | " + " | ".join(row[name] for name in names) + " |")


def told(tokens_per_second: float, how: str) -> str:
    """The time of one pass, with how it is known."""
    minutes = TOKENS / tokens_per_second / 60
    number, unit = (minutes, "min") if minutes < 100 else (minutes / 60, "h")
    return f"{number:.{int(number < 10)}f} {unit} ({how})"


if __name__ == "__main__":
    main()
