"""The training loop: token rows in, a checkpoint out.

In: a token folder, a model shape, a TrainingConfig. Out: a checkpoint folder that resumes, with metrics.jsonl.
Beware: the clock of the time budget counts training steps alone; compiling, evaluating and saving stand apart.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smalltale.errors import RecipeError, SmalltaleError
from smalltale.files import explained, read_jsonl, refuse_foreign_folder, write_json, write_jsonl
from smalltale.model.transformer import ModelConfig, Transformer
from smalltale.tokens.shards import TokenFolder, read_tokens
from smalltale.tokens.tokenizer import Tokenizer
from smalltale.training.batches import Plan, Rows
from smalltale.training.checkpoint import RunState, Saver, load_state, newest_state, read_state
from smalltale.training.device import Device, choose_device
from smalltale.training.evaluate import evaluate
from smalltale.training.fitting import batch_for, fitting_part, micro_batch
from smalltale.training.health import LossWatch
from smalltale.training.optim import OptimConfig, Optimizers
from smalltale.training.ranks import Ranks, joined
from smalltale.training.record import fingerprint, run_record
from smalltale.training.schedule import ScheduleConfig
from smalltale.training.step import Gradients, Recorded
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
    """Tokens an optimizer step, a multiple of `row_length`; halved where a time budget leaves too few steps."""
    micro_batch_tokens: int = 0
    """The most tokens a rank sends through the model at once; 0: as many as its memory takes."""
    dropout: float = 0.0
    """Share of features dropped where a layer adds to the stream; for texts that are read many times."""
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
        for name in ("row_length", "batch_tokens", "head_rows"):
            if getattr(self, name) < 1:
                raise RecipeError(f"training.{name} = {getattr(self, name)} must be at least 1")
        if self.batch_tokens % self.row_length:
            raise RecipeError(
                f"training.batch_tokens = {self.batch_tokens} must be a multiple of row_length = {self.row_length}"
            )
        if not 0 <= self.dropout < 1:
            raise RecipeError(f"training.dropout = {self.dropout} must be at least 0 and below 1")


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
    """Train a model from scratch, or go on where an earlier run into `out` stopped; with torchrun, on all its ranks.

    `record` (weight class, counted parameters) goes into config.json. Raises SmalltaleError where the parts do not
    fit, or where the run stops learning for a second time.
    """
    data = read_tokens(tokens)
    check_fit(shape, data, tokenizer, config)
    with joined() as ranks:
        told: dict[str, Any] = {"fingerprint": fingerprint(asdict(config), shape, data)}
        try:
            refuse_foreign_folder(out)
            with explained(out):
                out.mkdir(parents=True, exist_ok=True)
            device = choose_device(config.device, ranks.local)
        except SmalltaleError as error:
            told["error"] = str(error)
        ranks.agree(told)
        about = About(recipe=recipe, record=record or {}, tokens=tokens, fingerprint=told["fingerprint"])
        run = Run(config, shape, data, tokenizer, out, device, ranks, about)
        validation = list(validation_stories(data, tokenizer, config.validation_stories))
        return run.go(validation[ranks.rank :: ranks.size], watch)


@dataclass(frozen=True, kw_only=True)
class About:
    """What a run's record says besides its own figures."""

    recipe: dict[str, Any] | None
    record: dict[str, Any]
    tokens: Path
    fingerprint: str


class Run:
    """One run, as this rank sees it: model, optimizers, rows, clock."""

    def __init__(
        self,
        config: TrainingConfig,
        shape: ModelConfig,
        data: TokenFolder,
        tokenizer: Tokenizer,
        out: Path,
        device: Device,
        ranks: Ranks,
        about: About,
    ) -> None:
        self.config, self.shape, self.tokenizer, self.out = config, shape, tokenizer, out
        self.device, self.ranks, self.about = device, ranks, about
        torch.manual_seed(config.seed)
        self.model = Transformer(shape, dropout=config.dropout).to(device.torch_device)
        self.optimizers = Optimizers(self.model, config.optim, ranks)
        self.rows = Rows.from_tokens(
            data,
            config.row_length,
            seed=config.seed,
            rank=ranks.rank,
            world_size=ranks.size,
            device=device.torch_device,
        )
        self.state = RunState(
            step=0,
            tokens=0,
            seconds=0.0,
            fingerprint=about.fingerprint,
            batch_tokens=config.batch_tokens,
        )
        self.compiled = config.compile and device.compiles
        self.gradients = Gradients(
            self.model, self.rows, device, ranks, head_rows=config.head_rows, compiled=self.compiled
        )
        self.micro_tokens = micro_batch(config, config.batch_tokens, shape, device, ranks)
        self.update: Callable[[], None] = self.optimizers.step
        self.saver = Saver(out, about.record)
        self.health = LossWatch()
        self.metrics: list[dict[str, Any]] = []

    def go(self, validation: list[str], watch: Watcher | None) -> TrainingSummary:
        """Train to the end of the budget."""
        place = newest_state(self.out)
        if place is not None:
            self.state = read_state(place, self.about.fingerprint)
        compile_seconds = self.warm_up(fresh=place is None)
        if place is not None:
            self.go_back_to(place, self.state)
            log.info("going on from step %d, after %.0f s", self.state.step, self.state.seconds)
        first, schedule = self.state, self.config.schedule
        self.save(finished=False)
        saved = time.monotonic()
        next_look = self.look_after(schedule.progress(first.step, first.seconds))
        with StopRequests() as stop:
            while (progress := schedule.progress(self.state.step, self.state.seconds)) < 1:
                loss, asked = self.step(progress, stop_asked=stop.asked)
                if trouble := self.health.trouble(loss):
                    self.recover(trouble)
                    continue
                progress = schedule.progress(self.state.step, self.state.seconds)
                self.show(progress)
                if progress >= next_look:
                    next_look = self.look_after(progress)
                    self.look(validation, watch)
                if asked:
                    self.save(finished=False)
                    self.saver.wait()
                    raise KeyboardInterrupt
                if time.monotonic() - saved > self.config.checkpoint_seconds and self.health.calm:
                    self.save(finished=False)
                    saved = time.monotonic()
        self.save(finished=True)
        self.saver.wait()
        seconds, trained = self.state.seconds - first.seconds, self.state.tokens - first.tokens
        last = self.metrics[-1] if self.metrics else {}
        return TrainingSummary(
            steps=self.state.step,
            tokens=self.state.tokens,
            seconds=self.state.seconds,
            compile_seconds=compile_seconds,
            tokens_per_second=trained / seconds if seconds else 0.0,
            final_loss=last.get("loss", math.nan),
            bits_per_byte=last.get("bits_per_byte"),
        )

    def warm_up(self, *, fresh: bool) -> float:
        """Compile and fit the batches to the machine before the clock starts; nothing is learned. Returns seconds."""
        began = time.monotonic()
        if self.compiled:
            log.info("compiling the model (once for a shape; later runs are faster)")
        self.optimizers.set_multiplier(0.0)
        self.fit_micro_batch()
        if fresh and self.config.schedule.minutes:
            self.state = replace(self.state, batch_tokens=batch_for(self.config, self.speed(), self.ranks))
            if self.state.batch_tokens < self.config.batch_tokens:
                log.info("steps of %d tokens: the time is short for this machine", self.state.batch_tokens)
                self.fit_micro_batch()
        if self.compiled and self.device.kind == "cuda":
            self.update = Recorded(self.optimizers.step, (), self.device.torch_device)
        self.optimizers.reset()
        self.device.synchronize()
        return time.monotonic() - began if self.compiled else 0.0

    def fit_micro_batch(self) -> None:
        """Find the most tokens that go through at once: halved while the memory does not take them."""
        batch = self.state.batch_tokens
        most = micro_batch(self.config, batch, self.shape, self.device, self.ranks)
        while True:
            self.micro_tokens = fitting_part(batch // self.ranks.size, self.config.row_length, most)
            try:
                self.gradients.add(self.plans(0)[0], 0.0)
                self.device.synchronize()
                break
            except torch.OutOfMemoryError as error:
                most = self.less_at_once(error)
        least = self.ranks.least(self.micro_tokens)
        self.micro_tokens = fitting_part(batch // self.ranks.size, self.config.row_length, least)

    def less_at_once(self, error: torch.OutOfMemoryError) -> int:
        """Half the micro-batch, after the memory did not take it. Raises SmalltaleError where it is one row."""
        if self.micro_tokens <= self.config.row_length:
            raise SmalltaleError(
                f"{self.device.name} has not enough memory for one row of {self.config.row_length} tokens; "
                "lower training.row_length, training.head_rows or model.width"
            ) from error
        log.warning("%d tokens at once do not fit into the memory; trying half", self.micro_tokens)
        self.gradients.forget()
        self.optimizers.zero_grad()
        return self.micro_tokens // 2

    def speed(self) -> float:
        """Tokens a second of all ranks together, forward and backward, over one micro-batch."""
        plan = self.plans(0)[0]
        began = time.monotonic()
        self.gradients.add(plan, 0.0)
        self.device.synchronize()
        (speed,) = self.ranks.sums(self.micro_tokens / (time.monotonic() - began))
        return speed

    def plans(self, step: int) -> list[Plan]:
        """Where the tokens of this rank's micro-batches of a step stand."""
        rows = self.micro_tokens // self.config.row_length
        count = self.state.batch_tokens // self.ranks.size // self.micro_tokens
        return [self.rows.plan(step * count + number, rows) for number in range(count)]

    def backward(self) -> Tensor:
        """The gradient of the mean loss over all ranks' targets, into every rank's gradients.

        Returns this rank's share of the mean, on the device.
        """
        plans = self.plans(self.state.step)
        (targets,) = self.ranks.sums(sum(plan.targets for plan in plans))
        total = torch.zeros((), device=self.device.torch_device)
        for number, plan in enumerate(plans):
            if self.config.dropout:
                torch.manual_seed(hash((self.config.seed, self.state.step, number, self.ranks.rank)))
            total += self.gradients.add(plan, 1 / targets, send=number == len(plans) - 1)
        return total / targets

    def step(self, progress: float, *, stop_asked: bool) -> tuple[float, bool]:
        """One optimizer step, unless the loss is not finite. Returns the loss before it, and whether to stop."""
        began = time.monotonic()
        self.optimizers.set_multiplier(self.config.schedule.multiplier(progress) * self.state.rate_factor)
        try:
            share = float(self.backward())
        except torch.OutOfMemoryError as error:
            if self.ranks.size > 1:
                raise
            self.micro_tokens = self.less_at_once(error)
            return self.step(progress, stop_asked=stop_asked)
        # The leader's clock counts for all, and a signal to one stops all.
        seconds = time.monotonic() - began
        loss, seconds, asked = self.ranks.sums(share, seconds * self.ranks.leads, stop_asked)
        if math.isfinite(loss):
            self.update()
        self.optimizers.zero_grad()
        self.state = replace(
            self.state,
            step=self.state.step + 1,
            tokens=self.state.tokens + self.state.batch_tokens,
            seconds=self.state.seconds + seconds,
        )
        self.metrics.append(
            {
                "step": self.state.step,
                "tokens": self.state.tokens,
                "seconds": round(self.state.seconds, 4),
                "loss": loss,
                "tokens_per_second": round(self.state.batch_tokens / seconds, 1),
            }
        )
        return loss, asked > 0

    def recover(self, trouble: str) -> None:
        """Go back to the last good state, once, with half the learning rates. Raises SmalltaleError for a second time."""
        self.saver.wait()
        place = newest_state(self.out)
        if place is None or self.state.recoveries:
            raise SmalltaleError(
                f"{trouble} at step {self.state.step}, {'once more, ' * self.state.recoveries}and the run stopped; "
                f"the last good state is kept in {self.out}: lower training.optim.matrix_rate and "
                "training.optim.embedding_rate, and train into a new folder"
            )
        log.warning(
            "%s at step %d; going back to the last good state, with half the rates", trouble, self.state.step
        )
        good = read_state(place, self.about.fingerprint)
        self.go_back_to(
            place,
            replace(good, recoveries=good.recoveries + 1, rate_factor=good.rate_factor / 2),
        )
        self.health = LossWatch()
        self.save(finished=False)

    def go_back_to(self, place: Path, state: RunState) -> None:
        """Take up a saved state's weights and momenta, as `state`."""
        load_state(place, self.model, self.optimizers)
        self.state = state
        path = self.out / "metrics.jsonl"
        if path.exists():
            self.metrics = [each for each in read_jsonl(path) if each["step"] <= state.step]

    def show(self, progress: float) -> None:
        """Move the display."""
        if not self.ranks.leads:
            return
        last = self.metrics[-1]
        figures = f"step {last['step']:,}  loss {last['loss']:.3f}  {last['tokens_per_second']:,.0f} tokens/s"
        log.info("training", extra={"done": progress, "total": 1.0, "unit": "", "figures": figures})

    def look_after(self, progress: float) -> float:
        """The progress at which the next evaluation is due."""
        count = max(1, self.config.evaluations)
        return (math.floor(progress * count + 1e-9) + 1) / count

    def look(self, validation: list[str], watch: Watcher | None) -> None:
        """Measure bits per byte, each rank on its share of the stories; keep the best model; let the watcher see it."""
        found = evaluate(self.model, self.tokenizer, validation) if validation else None
        nats, size = self.ranks.sums(found.nats if found else 0.0, found.bytes if found else 0)
        if size:
            bits = nats / math.log(2) / size
            self.metrics[-1]["bits_per_byte"] = bits
            log.info("step %d: %.4f bits per byte on held-out stories", self.state.step, bits)
            if self.state.best_bits_per_byte is None or bits < self.state.best_bits_per_byte:
                self.state = replace(self.state, best_bits_per_byte=bits)
                if self.ranks.leads:
                    self.saver.best(self.model, self.tokenizer, self.meta(finished=False))
        if watch is not None and self.ranks.leads:
            watch(self.model, self.state)

    def save(self, *, finished: bool) -> None:
        """Keep the state, the record and the metrics."""
        if self.ranks.leads:
            self.tokenizer.save(self.out, {})
            self.saver.last(self.model, self.optimizers, self.state)
            write_json(self.out / "meta.json", self.meta(finished=finished))
            write_jsonl(self.out / "metrics.jsonl", self.metrics)

    def meta(self, *, finished: bool) -> dict[str, Any]:
        """The record of the run so far."""
        about = self.about
        return run_record(
            asdict(self.config), self.state, self.device, about.tokens, about.recipe, finished=finished
        )


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
