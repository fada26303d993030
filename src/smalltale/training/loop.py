"""The training loop: token rows in, a checkpoint out.

In: a token folder, a model shape, a TrainingConfig. Out: a checkpoint folder that resumes, with metrics.jsonl.
Beware: the clock of the time budget counts training steps alone; compiling, evaluating and saving stand apart.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from smalltale.errors import RecipeError, SmalltaleError
from smalltale.files import explained, read_jsonl, refuse_foreign_folder, write_jsonl
from smalltale.model.head import chunked_cross_entropy
from smalltale.model.transformer import ModelConfig, Transformer
from smalltale.tokens.shards import TokenFolder, read_tokens
from smalltale.tokens.tokenizer import Tokenizer
from smalltale.training.batches import Batch, Rows
from smalltale.training.checkpoint import RunState, newest_state, resume, save_checkpoint
from smalltale.training.device import Device, choose_device
from smalltale.training.evaluate import evaluate
from smalltale.training.optim import OptimConfig, Optimizers
from smalltale.training.record import fingerprint, write_meta
from smalltale.training.schedule import ScheduleConfig
from smalltale.training.stopping import StopRequests

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a model is trained."""

    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(minutes=3))
    optim: OptimConfig = field(default_factory=OptimConfig)
    row_length: int = 256
    """Tokens a row; stories are packed whole into rows."""
    batch_tokens: int = 8192
    """Tokens an optimizer step, a multiple of `row_length`."""
    micro_batch_tokens: int = 8192
    """Tokens that go through the model at once; a divisor of `batch_tokens`."""
    head_rows: int = 512
    """Rows of logits the loss holds at once."""
    device: str = "auto"
    compile: bool = True
    """Compile the model where the device profits."""
    seed: int = 0
    validation_stories: int = 100
    """Held-out stories that the running bits per byte are measured on."""
    evaluations: int = 4
    """How often in the run, evenly spread; the last at its end."""
    checkpoint_seconds: float = 60.0
    """Keep the run's state this often."""

    def __post_init__(self) -> None:
        for name in ("row_length", "batch_tokens", "micro_batch_tokens", "head_rows"):
            if getattr(self, name) < 1:
                raise RecipeError(f"training.{name} = {getattr(self, name)} must be at least 1")
        if self.micro_batch_tokens % self.row_length or self.batch_tokens % self.micro_batch_tokens:
            raise RecipeError(
                f"training: batch_tokens {self.batch_tokens} must be a multiple of micro_batch_tokens "
                f"{self.micro_batch_tokens}, and that of row_length {self.row_length}"
            )


@dataclass(frozen=True, kw_only=True)
class TrainingSummary:
    """A finished run."""

    steps: int
    tokens: int
    seconds: float
    """Seconds spent in training steps."""
    compile_seconds: float
    tokens_per_second: float
    """Over this process's steps."""
    final_loss: float
    bits_per_byte: float | None
    """On the running validation stories."""


Watcher = Callable[[Transformer, RunState], None]
"""Called after each evaluation, for a look at the model: a sample story, say."""


def train(
    config: TrainingConfig,
    shape: ModelConfig,
    tokens: Path,
    tokenizer: Tokenizer,
    out: Path,
    *,
    recipe: dict[str, Any] | None = None,
    record: dict[str, Any] | None = None,
    watch: Watcher | None = None,
) -> TrainingSummary:
    """Train a model from scratch, or go on where an earlier run into `out` stopped.

    `record` (weight class, counted parameters) goes into config.json. Raises SmalltaleError where the parts do not
    fit, or where the loss is no longer finite.
    """
    refuse_foreign_folder(out)
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
    data = read_tokens(tokens)
    check_fit(shape, data, tokenizer, config)
    run = Run(config, shape, data, out, record or {})
    tokenizer.save(out, {})

    def keep_record(*, finished: bool) -> None:
        write_meta(out, asdict(config), run.state, run.device, tokens, recipe, finished=finished)

    keep_record(finished=False)
    validation = list(validation_stories(data, tokenizer, config.validation_stories))
    summary = run.go(tokenizer, validation, watch)
    keep_record(finished=True)
    return summary


class Run:
    """One run in this process: model, optimizers, rows, clock."""

    def __init__(
        self, config: TrainingConfig, shape: ModelConfig, data: TokenFolder, out: Path, record: dict[str, Any]
    ) -> None:
        self.config, self.shape, self.out, self.record = config, shape, out, record
        self.device: Device = choose_device(config.device)
        torch.manual_seed(config.seed)
        self.model = Transformer(shape).to(self.device.torch_device)
        self.optimizers = Optimizers(self.model, config.optim)
        self.rows = Rows.from_tokens(
            data, config.row_length, seed=config.seed, device=self.device.torch_device
        )
        self.state = RunState(
            step=0, tokens=0, seconds=0.0, fingerprint=fingerprint(asdict(config), shape, data)
        )
        self.compiled = config.compile and self.device.compiles
        # Layer by layer, all alike: 9 s to compile instead of 45 s for the whole trunk, at the same speed
        # (6 layers, 2 cores with AMX, 2026-11-23).
        self.layers = [
            torch.compile(each, dynamic=False) if self.compiled else each for each in self.model.blocks
        ]
        self.metrics: list[dict[str, Any]] = []

    def go(self, tokenizer: Tokenizer, validation: list[str], watch: Watcher | None) -> TrainingSummary:
        """Train to the end of the budget."""
        self.take_up()
        compile_seconds = self.warm_up()
        first, schedule = self.state, self.config.schedule
        saved = time.monotonic()
        bits: float | None = None
        next_look = self.look_after(schedule.progress(first.step, first.seconds))
        loss = self.metrics[-1]["loss"] if self.metrics else math.nan
        with StopRequests() as stop:
            while (progress := schedule.progress(self.state.step, self.state.seconds)) < 1:
                loss = self.step(progress)
                self.show(loss)
                progress = schedule.progress(self.state.step, self.state.seconds)
                if progress >= next_look:
                    next_look = self.look_after(progress)
                    bits = self.look(tokenizer, validation, watch)
                if stop.asked:
                    self.save()
                    raise KeyboardInterrupt
                if time.monotonic() - saved > self.config.checkpoint_seconds:
                    self.save()
                    saved = time.monotonic()
        self.save()
        seconds, trained = self.state.seconds - first.seconds, self.state.tokens - first.tokens
        return TrainingSummary(
            steps=self.state.step,
            tokens=self.state.tokens,
            seconds=self.state.seconds,
            compile_seconds=compile_seconds,
            tokens_per_second=trained / seconds if seconds else 0.0,
            final_loss=loss,
            bits_per_byte=bits,
        )

    def take_up(self) -> None:
        """Go on from the newest saved state, where there is one."""
        place = newest_state(self.out)
        if place is None:
            return
        self.state = resume(place, self.model, self.optimizers, self.state.fingerprint)
        path = self.out / "metrics.jsonl"
        if path.exists():
            self.metrics = [each for each in read_jsonl(path) if each["step"] <= self.state.step]
        log.info("going on from step %d, after %.0f s of training", self.state.step, self.state.seconds)

    def warm_up(self) -> float:
        """Compile before the clock starts, on the step that comes next; nothing is learned. Returns seconds."""
        if not self.compiled:
            return 0.0
        log.info("compiling the model (once for a shape; later runs are faster)")
        began = time.monotonic()
        self.backward(self.batch(self.state.step)[:1])
        self.optimizers.zero_grad()
        self.device.synchronize()
        return time.monotonic() - began

    def batch(self, step: int) -> list[Batch]:
        """The micro-batches of a step."""
        rows = self.config.micro_batch_tokens // self.config.row_length
        count = self.config.batch_tokens // self.config.micro_batch_tokens
        return [self.rows.batch(step * count + number, rows) for number in range(count)]

    def backward(self, batches: list[Batch]) -> float:
        """Add the gradient of the mean loss over all targets. Returns that loss in nats per token."""
        targets = sum(int((batch.targets >= 0).sum()) for batch in batches)
        total = torch.zeros((), device=self.device.torch_device)
        for batch in batches:
            with self.device.autocast():
                # The look-up stays outside the compiled part: its gradient would be summed in a changing order.
                features = self.model.trunk(self.model.embedding(batch.ids), batch.story, self.layers)
                loss = chunked_cross_entropy(
                    features.flatten(0, 1).to(self.device.dtype),
                    self.model.embedding.weight,
                    batch.targets.flatten(),
                    cap=self.shape.soft_cap,
                    chunk=self.config.head_rows,
                    compiled=self.compiled,
                )
            (loss / targets).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return float(total) / targets

    def step(self, progress: float) -> float:
        """One optimizer step. Returns the loss before it, in nats per token."""
        began = time.monotonic()
        self.optimizers.set_multiplier(self.config.schedule.multiplier(progress))
        loss = self.backward(self.batch(self.state.step))
        if not math.isfinite(loss):
            raise SmalltaleError(
                f"the loss is {loss} at step {self.state.step}; the last good state is kept in {self.out}: "
                "lower training.optim.matrix_rate and training.optim.embedding_rate, and train into a new folder"
            )
        self.optimizers.step()
        self.optimizers.zero_grad()
        self.device.synchronize()
        seconds = time.monotonic() - began
        self.state = RunState(
            step=self.state.step + 1,
            tokens=self.state.tokens + self.config.batch_tokens,
            seconds=self.state.seconds + seconds,
            fingerprint=self.state.fingerprint,
        )
        self.metrics.append(
            {
                "step": self.state.step,
                "tokens": self.state.tokens,
                "seconds": round(self.state.seconds, 4),
                "loss": loss,
                "tokens_per_second": round(self.config.batch_tokens / seconds, 1),
            }
        )
        return loss

    def show(self, loss: float) -> None:
        """Move the display."""
        speed = self.metrics[-1]["tokens_per_second"]
        after = self.config.schedule.progress(self.state.step, self.state.seconds)
        figures = f"step {self.state.step:,}  loss {loss:.3f}  {speed:,.0f} tokens/s"
        log.info("training", extra={"done": after, "total": 1.0, "unit": "", "figures": figures})

    def look_after(self, progress: float) -> float:
        """The progress at which the next evaluation is due."""
        count = max(1, self.config.evaluations)
        return (math.floor(progress * count + 1e-9) + 1) / count

    def look(self, tokenizer: Tokenizer, validation: list[str], watch: Watcher | None) -> float | None:
        """Measure bits per byte, and let the watcher see the model."""
        bits = None
        if validation:
            bits = evaluate(self.model, tokenizer, validation).bits_per_byte
            self.metrics[-1]["bits_per_byte"] = bits
            log.info(
                "step %d: %.4f bits per byte on %d held-out stories", self.state.step, bits, len(validation)
            )
        if watch is not None:
            watch(self.model, self.state)
        return bits

    def save(self) -> None:
        """Keep the state and the metrics."""
        save_checkpoint(self.out, self.model, self.optimizers, self.state, self.record)
        write_jsonl(self.out / "metrics.jsonl", self.metrics)


def check_fit(shape: ModelConfig, data: TokenFolder, tokenizer: Tokenizer, config: TrainingConfig) -> None:
    """Refuse parts that do not belong together."""
    if data.meta["tokenizer_hash"] != tokenizer.hash:
        raise SmalltaleError(
            f"the tokens were encoded with tokenizer {data.meta['tokenizer_hash'][:12]}, the one given is "
            f"{tokenizer.hash[:12]}; encode the corpus again with `smalltale tokens encode`"
        )
    if tokenizer.vocabulary > shape.vocabulary:
        raise RecipeError(
            f"model.vocabulary = {shape.vocabulary} is smaller than the tokenizer's {tokenizer.vocabulary}; "
            f"set model.vocabulary={tokenizer.vocabulary}"
        )
    if config.row_length > shape.context:
        raise RecipeError(
            f"training.row_length = {config.row_length} is longer than model.context = {shape.context}; "
            "lower the one or raise the other"
        )


def validation_stories(data: TokenFolder, tokenizer: Tokenizer, count: int) -> Iterator[str]:
    """The first held-out stories of a token folder, as text."""
    for start, end in list(zip(data.val_offsets[:-1], data.val_offsets[1:], strict=True))[:count]:
        yield tokenizer.decode([int(each) for each in data.val[int(start) : int(end) - 1]])
