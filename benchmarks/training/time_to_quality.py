"""How long we train until the model is as good as nanoGPT's best, and how much better it gets.

In: a checkout of nanoGPT, a token folder, its tokenizer, the validation text. Out: results/time_to_quality-DEVICE.json, and
as the last line of standard output one JSON object with the keys `ratio_time` (nanoGPT's training seconds ÷ ours, for
bits per byte at least as low) and `ratio_quality` (our best bits per byte ÷ nanoGPT's).
Beware: time is the sum of training steps; starting and compiling stand beside it. Both train on the same few stories, many
times over, so regularisation decides; bits per byte are on the whole validation text, in float32. With --paced a step of each
is measured first, taking turns on the quiet machine, and every step counts as that median: the hours of training may then run
beside other work, and on a CPU nanoGPT's, compiled and in bfloat16 though they count at the pace of its own float32 step.
A finished run is kept beside the result, in OUT.runs.jsonl: the same command goes on after it.

    python -m benchmarks.training.time_to_quality --nanogpt PATH --tokens FOLDER --tokenizer FOLDER --text FILE [--minutes 20] [--paced] [--quick]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import statistics
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.lib.peers import NanoGPT, Ours, Shape, Trainer
from torch import Tensor, nn

from smalltale.files import git_commit, read_stories
from smalltale.model.transformer import ModelConfig
from smalltale.tokens.shards import TokenFolder, read_tokens
from smalltale.tokens.tokenizer import Tokenizer
from smalltale.training.device import Device, choose_device
from smalltale.training.evaluate import evaluate
from smalltale.training.optim import OptimConfig
from smalltale.training.schedule import ScheduleConfig

HERE = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One run."""

    name: str
    layers: int
    width: int
    heads: int
    length: int
    batch_tokens: int
    minutes: float = 0.0
    steps: int = 0
    dropout: float = 0.0
    rate: float = 0.0
    """nanoGPT's learning rate; 0 for ours."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: dict[str, float] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True)
class Bench:
    """What all runs share."""

    device: Device
    data: TokenFolder
    tokenizer: Tokenizer
    stories: list[str]
    nanogpt: Path | None
    pace: dict[bool, float] = field(default_factory=dict)
    """Seconds that a step of nanoGPT's (True) and of ours count as, where they were measured before."""

    def shape(self, setting: Setting) -> Shape:
        most = 65536 if self.device.kind == "cuda" else 4096
        return Shape(
            layers=setting.layers,
            width=setting.width,
            heads=setting.heads,
            vocabulary=self.data.meta["vocabulary"],
            length=setting.length,
            batch_tokens=setting.batch_tokens,
            micro_tokens=min(most, setting.batch_tokens),
        )

    def trainer(self, setting: Setting) -> Trainer:
        shape = self.shape(setting)
        if setting.rate:
            assert self.nanogpt is not None
            return NanoGPT(
                self.nanogpt,
                shape,
                self.data,
                self.device,
                setting.rate,
                setting.dropout,
                hurried=bool(self.pace),
            )
        return Ours(shape, self.data, self.device, setting.optim, setting.dropout, setting.seed)


def run(bench: Bench, setting: Setting, looks: int = 5) -> dict[str, Any]:
    """Train one setting to its end. The curve is on the first 300 stories, the final figure on all."""
    began = time.perf_counter()
    trainer = bench.trainer(setting)
    if setting.rate:
        trainer.steps(1)  # compiles; one step at the first rate of the warm-up changes nothing that matters
    start = time.perf_counter() - began
    schedule = ScheduleConfig(minutes=setting.minutes, steps=setting.steps, **setting.schedule)
    seconds, curve = 0.0, []
    while (progress := schedule.progress(trainer.done, seconds)) < 1:
        trainer.set_rate(setting.rate * cosine(progress) if setting.rate else schedule.multiplier(progress))
        taken = sum(trainer.steps(1))
        seconds += bench.pace.get(bool(setting.rate), taken)
        if schedule.progress(trainer.done, seconds) >= (len(curve) + 1) / looks:
            bits = bits_of(trainer, bench, bench.stories[:300])
            curve.append(
                {
                    "seconds": round(seconds, 2),
                    "bits_per_byte": round(bits, 4),
                    "loss": round(trainer.loss, 3),
                }
            )
    whole = bits_of(trainer, bench, bench.stories)
    tokens = trainer.done * setting.batch_tokens
    record = {
        "name": setting.name,
        "bits_per_byte": round(whole, 4),
        "seconds": round(seconds, 2),
        "start_seconds": round(start, 1),
        "tokens": tokens,
        "steps": trainer.done,
        "tokens_per_second": round(tokens / seconds),
        "parameters": trainer.parameters,
        "curve": curve,
    }
    print(json.dumps({key: value for key, value in record.items() if key != "curve"}), flush=True)
    return record


def pace_of(
    bench: Bench, theirs: Setting, ours: Setting, windows: int = 6, steps: int = 12
) -> dict[str, float]:
    """Median seconds of a step of each, window by window in turn, after warm-up."""
    trainers = {"nanogpt": bench.trainer(theirs), "ours": bench.trainer(ours)}
    taken: dict[str, list[float]] = {name: [] for name in trainers}
    for trainer in trainers.values():
        trainer.steps(3)
    for _ in range(windows):
        for name, trainer in trainers.items():
            taken[name] += trainer.steps(steps)
    return {name: statistics.median(each) for name, each in taken.items()}


class Journal:
    """What is finished, a line each, for a command that is given again on the same machine at the same commit."""

    def __init__(self, path: Path, where: str) -> None:
        self.path, self.where = path, where
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.held = [each for each in map(json.loads, lines) if each["where"] == where]

    def get(self, name: str) -> dict[str, Any] | None:
        return next((each for each in self.held if each["name"] == name), None)

    def keep(self, record: dict[str, Any]) -> dict[str, Any]:
        with self.path.open("a", encoding="utf-8") as out:
            out.write(json.dumps({**record, "where": self.where}) + "\n")
        return record


def cosine(progress: float) -> float:
    """nanoGPT's schedule: 2 % warm-up, then half a cosine to a tenth."""
    if progress < 0.02:
        return max(progress, 0.002) / 0.02
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (progress - 0.02) / 0.98))


class AsOurs(nn.Module):
    """nanoGPT's model as `evaluate` asks one."""

    def __init__(self, peer: NanoGPT, shape: Shape) -> None:
        super().__init__()
        self.peer, self.config = peer, ModelConfig(vocabulary=shape.vocabulary, context=shape.length)
        self.embedding = peer.model.transformer.wte  # type: ignore[union-attr]
        self.held = peer.model

    def forward(self, ids: Tensor) -> Tensor:
        return self.peer.logits(ids)


def bits_of(trainer: Trainer, bench: Bench, stories: list[str]) -> float:
    """Bits per byte as smalltale defines them, for either."""
    model: Any = trainer.model
    if isinstance(trainer, NanoGPT):
        block = trainer.model.config.block_size  # type: ignore[union-attr]
        shape = Shape(
            layers=1, width=8, heads=1, vocabulary=bench.data.meta["vocabulary"], length=int(block),
            batch_tokens=1, micro_tokens=1,
        )  # fmt: skip
        model = AsOurs(trainer, shape)
    return evaluate(model, bench.tokenizer, stories).bits_per_byte


def settings_for(kind: str, minutes: float, quick: bool) -> tuple[list[Setting], list[Setting]]:
    """nanoGPT's settings and ours."""
    if kind == "cuda":
        base = Setting(
            name="", layers=8, width=512, heads=4, length=512, batch_tokens=32768, steps=40 if quick else 1600
        )
        theirs = [
            replace(base, name=f"nanoGPT, rate {rate:g}, dropout {dropout}", rate=rate, dropout=dropout)
            for rate, dropout in ((1e-3, 0.2), (2e-3, 0.2), (1e-3, 0.1), (1e-3, 0.3))
        ]
        ours = our_settings_on_a_gpu(quick)
        return theirs[: 1 if quick else None], ours[: 1 if quick else None]
    base = Setting(name="", layers=6, width=256, heads=2, length=256, batch_tokens=4096, minutes=minutes)
    theirs = [replace(base, name=f"nanoGPT, rate {rate:g}", rate=rate) for rate in (2e-3, 1e-3, 4e-3, 5e-4)]
    ours = [replace(base, name="ours, a fifth of the time", length=512, minutes=minutes / 5)]
    return theirs[: 1 if quick else None], ours


def our_settings_on_a_gpu(quick: bool) -> list[Setting]:
    """Smaller than the class allows, with dropout and much weight decay: the text is read five to eight times."""
    base = Setting(
        name="ours, 13.8 M",
        layers=6,
        width=384,
        heads=3,
        length=512,
        batch_tokens=16384,
        steps=40 if quick else 732,
        dropout=0.15,
        optim=OptimConfig(matrix_rate=0.02, embedding_rate=0.006, weight_decay=0.5),
    )
    strong = replace(base.optim, matrix_rate=0.03, weight_decay=0.7)
    wide = replace(base, layers=8, width=512, heads=4, dropout=0.25)
    return [
        base,
        replace(base, name="ours, 13.8 M, 9 M tokens", steps=550),
        replace(base, name="ours, 13.8 M, stronger", optim=strong),
        replace(base, name="ours, 13.8 M, stronger, 16 M tokens", steps=976, dropout=0.2, optim=strong),
        replace(wide, name="ours, 29.4 M", optim=strong),
        replace(wide, name="ours, 29.4 M, 9 M tokens", steps=550, dropout=0.2, optim=strong),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nanogpt", type=Path, required=True, help="a checkout of nanoGPT")
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument(
        "--text", type=Path, required=True, help="validation stories, separated by <|endoftext|>"
    )
    parser.add_argument(
        "--minutes", type=float, default=20.0, help="nanoGPT's on a CPU, at each of its rates"
    )
    parser.add_argument("--paced", action="store_true", help="count each step as one measured at the start")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--commit", default=git_commit(), help="where there is no git")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    device = choose_device(chosen.device)
    bench = Bench(
        device=device,
        data=read_tokens(chosen.tokens),
        tokenizer=Tokenizer.load(chosen.tokenizer),
        stories=read_stories(chosen.text)[: 300 if chosen.quick else None],
        nanogpt=chosen.nanogpt,
    )
    out = chosen.out or HERE / "results" / f"time_to_quality-{device.kind}.json"
    journal = Journal(
        out.with_suffix(".runs.jsonl"), f"{device.name}, {chosen.commit}, quick: {chosen.quick}"
    )
    pace: dict[str, Any] | None = None
    theirs, ours = settings_for(device.kind, 0.2 if chosen.quick else chosen.minutes, chosen.quick)
    if chosen.paced:
        pace = journal.get("pace") or journal.keep({"name": "pace", **pace_of(bench, theirs[0], ours[0])})
        print(f"a step: nanoGPT's {pace['nanogpt']:.3f} s, ours {pace['ours']:.3f} s", flush=True)
        bench = replace(bench, pace={True: pace["nanogpt"], False: pace["ours"]})
        torch._dynamo.reset()
    found: dict[str, list[dict[str, Any]]] = {"nanogpt": [], "ours": []}
    for pair in zip(theirs + [None] * len(ours), ours + [None] * len(theirs), strict=False):  # taking turns
        for name, setting in zip(found, pair, strict=True):
            if setting is not None:
                found[name].append(journal.get(setting.name) or journal.keep(run(bench, setting)))
                torch._dynamo.reset()
    best = min(found["nanogpt"], key=lambda each: each["bits_per_byte"])
    as_good = [each["seconds"] for each in found["ours"] if each["bits_per_byte"] <= best["bits_per_byte"]]
    result = {
        "ratio_time": round(best["seconds"] / min(as_good), 2) if as_good else None,
        "ratio_quality": round(
            min(each["bits_per_byte"] for each in found["ours"]) / best["bits_per_byte"], 3
        ),
        "step_seconds": pace,
        "runs": found,
        "stories": len(bench.stories),
        "machine": device.name,
        "threads": torch.get_num_threads(),
        "versions": {"torch": importlib.metadata.version("torch")},
        "commit": chosen.commit,
        "quick": chosen.quick,
    }
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    journal.path.unlink()
    print(json.dumps({key: value for key, value in result.items() if key != "runs"}))


if __name__ == "__main__":
    main()
