"""Training time until the model is as good as nanoGPT's best, and the difference in final quality.

Input: a checkout of nanoGPT, a token folder, its tokenizer, the validation text. Output: results/time_to_quality-DEVICE.json, and
as the last line of standard output one JSON object with the keys `ratio_time` (nanoGPT's training seconds divided by ours, for
bits per byte at least as low) and `ratio_quality` (our best bits per byte divided by nanoGPT's).
Time is the sum of training steps; start and compilation are recorded separately. Both train for many epochs on few stories, so
regularisation decides; bits per byte are on the whole validation text, in float32. With --paced, the time of a step is measured
first for both, alternating on the quiet machine, and every step is charged with that median. The long training may then run next
to other work; on a CPU, nanoGPT then compiles and uses bfloat16, charged with the time of its own float32 step.
Finished runs are saved in OUT.runs.jsonl: the same command resumes after them.

    python -m benchmarks.training.time_to_quality --nanogpt PATH --tokens FOLDER --tokenizer FOLDER --text FILE [--minutes 20] [--paced] [--quick]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.lib.peers import NanoGPT, Ours, Shape, Trainer
from benchmarks.lib.records import RESULTS, add_record_arguments, provenance, write_record
from smalltale.files import read_stories
from smalltale.model.transformer import ModelConfig
from smalltale.tokens.token_folder import TokenFolder, read_tokens
from smalltale.tokens.tokenizer import Tokenizer
from smalltale.training.device import Device, choose_device
from smalltale.training.evaluate import evaluate
from smalltale.training.optim import OptimConfig
from smalltale.training.schedule import ScheduleConfig


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The settings of one run."""

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
    """nanoGPT's learning rate; 0 selects our trainer."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: dict[str, float] = field(default_factory=dict)
    seed: int = 0


@dataclass(frozen=True)
class Bench:
    """Inputs shared by all runs."""

    device: Device
    data: TokenFolder
    tokenizer: Tokenizer
    stories: list[str]
    nanogpt: Path | None
    charged_seconds: dict[bool, float] = field(default_factory=dict)
    """Seconds charged per step of nanoGPT (True) and ours (False), if measured before."""

    def shape(self, setting: Setting) -> Shape:
        max_micro_tokens = 65536 if self.device.kind == "cuda" else 4096
        return Shape(
            layers=setting.layers,
            width=setting.width,
            heads=setting.heads,
            vocabulary=self.data.meta["vocabulary"],
            length=setting.length,
            batch_tokens=setting.batch_tokens,
            micro_tokens=min(max_micro_tokens, setting.batch_tokens),
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
                fast_on_cpu=bool(self.charged_seconds),
            )
        return Ours(shape, self.data, self.device, setting.optim, setting.dropout, setting.seed)


def run(bench: Bench, setting: Setting, evaluations: int = 5) -> dict[str, Any]:
    """Train one setting to the end. The curve is measured on the first 300 stories, the final figure on all."""
    began = time.perf_counter()
    trainer = bench.trainer(setting)
    if setting.rate:
        trainer.steps(1)  # compiles; one step at the first rate of the warm-up has no visible effect
    start = time.perf_counter() - began
    schedule = ScheduleConfig(minutes=setting.minutes, steps=setting.steps, **setting.schedule)
    seconds, curve = 0.0, []
    while (progress := schedule.progress(trainer.steps_done, seconds)) < 1:
        trainer.set_rate(setting.rate * cosine(progress) if setting.rate else schedule.multiplier(progress))
        step_seconds = sum(trainer.steps(1))
        seconds += bench.charged_seconds.get(bool(setting.rate), step_seconds)
        if schedule.progress(trainer.steps_done, seconds) >= (len(curve) + 1) / evaluations:
            bits = bits_per_byte(trainer, bench, bench.stories[:300])
            curve.append(
                {
                    "seconds": round(seconds, 2),
                    "bits_per_byte": round(bits, 4),
                    "loss": round(trainer.loss, 3),
                }
            )
    final = bits_per_byte(trainer, bench, bench.stories)
    tokens = trainer.steps_done * setting.batch_tokens
    record = {
        "name": setting.name,
        "bits_per_byte": round(final, 4),
        "seconds": round(seconds, 2),
        "start_seconds": round(start, 1),
        "tokens": tokens,
        "steps": trainer.steps_done,
        "tokens_per_second": round(tokens / seconds),
        "parameters": trainer.parameters,
        "curve": curve,
    }
    print(json.dumps({key: value for key, value in record.items() if key != "curve"}), flush=True)
    return record


def measure_step_seconds(
    bench: Bench, theirs: Setting, ours: Setting, windows: int = 6, steps: int = 12
) -> dict[str, float]:
    """Median seconds per step of both trainers, alternating window by window, after warm-up."""
    trainers = {"nanogpt": bench.trainer(theirs), "ours": bench.trainer(ours)}
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for trainer in trainers.values():
        trainer.steps(3)
    for _ in range(windows):
        for name, trainer in trainers.items():
            seconds[name] += trainer.steps(steps)
    return {name: statistics.median(values) for name, values in seconds.items()}


class FinishedRuns:
    """JSON lines of finished runs, so that the same command on the same machine and commit resumes."""

    def __init__(self, path: Path, origin: str) -> None:
        self.path, self.origin = path, origin
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.records = [record for record in map(json.loads, lines) if record["origin"] == origin]

    def get(self, name: str) -> dict[str, Any] | None:
        return next((record for record in self.records if record["name"] == name), None)

    def append(self, record: dict[str, Any]) -> dict[str, Any]:
        with self.path.open("a", encoding="utf-8") as out:
            out.write(json.dumps({**record, "origin": self.origin}) + "\n")
        return record


def cosine(progress: float) -> float:
    """nanoGPT's schedule: 2 % warm-up, then cosine decay to a tenth."""
    if progress < 0.02:
        return max(progress, 0.002) / 0.02
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (progress - 0.02) / 0.98))


class PeerForEvaluation(nn.Module):
    """Adapter: nanoGPT's model with the interface that `evaluate` expects."""

    def __init__(self, peer: NanoGPT, shape: Shape) -> None:
        super().__init__()
        self.peer, self.config = peer, ModelConfig(vocabulary=shape.vocabulary, context=shape.length)
        self.embedding = peer.model.transformer.wte  # type: ignore[union-attr]
        self.model = peer.model

    def forward(self, ids: Tensor) -> Tensor:
        return self.peer.logits(ids)


def bits_per_byte(trainer: Trainer, bench: Bench, stories: list[str]) -> float:
    """Bits per byte as smalltale defines them, for either trainer."""
    model: Any = trainer.model
    if isinstance(trainer, NanoGPT):
        block = trainer.model.config.block_size  # type: ignore[union-attr]
        shape = Shape(
            layers=1, width=8, heads=1, vocabulary=bench.data.meta["vocabulary"], length=int(block),
            batch_tokens=1, micro_tokens=1,
        )  # fmt: skip
        model = PeerForEvaluation(trainer, shape)
    return evaluate(model, bench.tokenizer, stories).bits_per_byte


def list_settings(kind: str, minutes: float, quick: bool) -> tuple[list[Setting], list[Setting]]:
    """Settings of nanoGPT and of ours."""
    if kind == "cuda":
        base = Setting(
            name="", layers=8, width=512, heads=4, length=512, batch_tokens=32768, steps=40 if quick else 1600
        )
        theirs = [
            replace(base, name=f"nanoGPT, rate {rate:g}, dropout {dropout}", rate=rate, dropout=dropout)
            for rate, dropout in ((1e-3, 0.2), (2e-3, 0.2), (1e-3, 0.1), (1e-3, 0.3))
        ]
        ours = our_gpu_settings(quick)
        return theirs[: 1 if quick else None], ours[: 1 if quick else None]
    base = Setting(name="", layers=6, width=256, heads=2, length=256, batch_tokens=4096, minutes=minutes)
    theirs = [replace(base, name=f"nanoGPT, rate {rate:g}", rate=rate) for rate in (2e-3, 1e-3, 4e-3, 5e-4)]
    ours = [replace(base, name="ours, a fifth of the time", length=512, minutes=minutes / 5)]
    return theirs[: 1 if quick else None], ours


def our_gpu_settings(quick: bool) -> list[Setting]:
    """Smaller than the class allows, with dropout and strong weight decay: five to eight epochs."""
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
        "--minutes", type=float, default=20.0, help="nanoGPT's time on a CPU, per learning rate"
    )
    parser.add_argument(
        "--paced", action="store_true", help="charge each step with the time measured at the start"
    )
    parser.add_argument("--device", default="auto")
    add_record_arguments(parser)
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    bench = Bench(
        device=device,
        data=read_tokens(arguments.tokens),
        tokenizer=Tokenizer.load(arguments.tokenizer),
        stories=read_stories(arguments.text)[: 300 if arguments.quick else None],
        nanogpt=arguments.nanogpt,
    )
    out = arguments.out or RESULTS / f"time_to_quality-{device.kind}.json"
    finished = FinishedRuns(
        out.with_suffix(".runs.jsonl"), f"{device.name}, {arguments.commit}, quick: {arguments.quick}"
    )
    step_seconds: dict[str, Any] | None = None
    theirs, ours = list_settings(device.kind, 0.2 if arguments.quick else arguments.minutes, arguments.quick)
    if arguments.paced:
        step_seconds = finished.get("step seconds") or finished.append(
            {"name": "step seconds", **measure_step_seconds(bench, theirs[0], ours[0])}
        )
        print(
            f"seconds per step: nanoGPT {step_seconds['nanogpt']:.3f}, ours {step_seconds['ours']:.3f}",
            flush=True,
        )
        bench = replace(bench, charged_seconds={True: step_seconds["nanogpt"], False: step_seconds["ours"]})
        torch._dynamo.reset()
    runs: dict[str, list[dict[str, Any]]] = {"nanogpt": [], "ours": []}
    for pair in zip(theirs + [None] * len(ours), ours + [None] * len(theirs), strict=False):  # alternating
        for name, setting in zip(runs, pair, strict=True):
            if setting is not None:
                runs[name].append(finished.get(setting.name) or finished.append(run(bench, setting)))
                torch._dynamo.reset()
    best = min(runs["nanogpt"], key=lambda record: record["bits_per_byte"])
    as_good = [
        record["seconds"] for record in runs["ours"] if record["bits_per_byte"] <= best["bits_per_byte"]
    ]
    result = {
        "ratio_time": round(best["seconds"] / min(as_good), 2) if as_good else None,
        "ratio_quality": round(
            min(record["bits_per_byte"] for record in runs["ours"]) / best["bits_per_byte"], 3
        ),
        "step_seconds": step_seconds,
        "runs": runs,
        "stories": len(bench.stories),
        **provenance(("torch",), arguments.commit),
        "device": device.name,
        "threads": torch.get_num_threads(),
        "quick": arguments.quick,
    }
    write_record(out, result, {key: figure for key, figure in result.items() if key != "runs"})
    finished.path.unlink()


if __name__ == "__main__":
    main()
