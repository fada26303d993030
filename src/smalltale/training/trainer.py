"""The training loop: one run from its start, or from where it stopped, to its end.

In: a token folder, a model shape, a TrainingConfig. Out: a checkpoint folder that resumes, with metrics.jsonl.
Beware: the clock of the time budget counts training steps alone; compiling, evaluating and saving stand apart.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from smalltale.errors import SmalltaleError
from smalltale.files import write_json
from smalltale.model.transformer import ModelConfig, Transformer
from smalltale.tokens.shards import TokenFolder
from smalltale.tokens.tokenizer import Tokenizer
from smalltale.training.batch_size import batch_for, fitting_tokens
from smalltale.training.batches import Rows
from smalltale.training.checkpoint import RunState, Saver, load_state, newest_state, read_state
from smalltale.training.config import TrainingConfig
from smalltale.training.device import Device
from smalltale.training.distributed import Ranks
from smalltale.training.divergence import LossWatch
from smalltale.training.evaluate import evaluate
from smalltale.training.gradients import Gradients, Recorded
from smalltale.training.optim import Optimizers
from smalltale.training.run_logger import Journal
from smalltale.training.run_record import hash_of_weights, run_record
from smalltale.training.signals import StopRequests
from smalltale.training.throughput import yardstick

log = logging.getLogger(__name__)


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
    leads: bool
    """Whether this process speaks for the run: of several ranks the first."""


Watcher = Callable[[Transformer, RunState], None]
"""Called after each evaluation, for a look at the model: a sample story, say."""


@dataclass(frozen=True, kw_only=True)
class About:
    """What a run's record says besides its own figures."""

    recipe: dict[str, Any] | None
    record: dict[str, Any]
    tokens: dict[str, Any]
    """The token folder's meta.json."""
    fingerprint: str


class Trainer:
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
        self.compiled = config.compile and device.compiles
        self.optimizers = Optimizers(
            self.model, config.optim, ranks, dtype=device.dtype, compiled=self.compiled
        )
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
            first_weights=hash_of_weights(self.model),
        )
        self.gradients = Gradients(
            self.model,
            self.rows,
            device,
            ranks,
            head_rows=config.head_rows,
            compiled=self.compiled,
            most=config.micro_batch_tokens or fitting_tokens(shape, device),
            seed=config.seed,
        )
        self.update: Callable[[], None] = self.optimizers.step
        self.saver = Saver(out, about.record)
        self.health = LossWatch()
        self.journal = Journal(
            out,
            device,
            yardstick(shape.flops_per_token(config.row_length), device, ranks.size),
            config.track,
            asdict(config),
            silent=not ranks.leads,
        )

    def fit(self, validation: list[str], watch: Watcher | None) -> TrainingSummary:
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
                if progress >= next_look:
                    next_look = self.look_after(progress)
                    if progress == 1:  # Whatever an evaluation meets, a finished run is kept.
                        self.save(finished=False)
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
        last = self.journal.last
        return TrainingSummary(
            steps=self.state.step,
            tokens=self.state.tokens,
            seconds=self.state.seconds,
            compile_seconds=compile_seconds,
            tokens_per_second=trained / seconds if seconds else 0.0,
            final_loss=last.get("loss", math.nan),
            bits_per_byte=last.get("bits_per_byte"),
            leads=self.ranks.leads,
        )

    def close(self) -> None:
        """Finish writing, whatever ended the run."""
        self.journal.close()
        self.saver.close()

    def warm_up(self, *, fresh: bool) -> float:
        """Compile and fit the batches to the machine before the clock starts; nothing is learned. Returns seconds."""
        began = time.monotonic()
        if self.compiled:
            log.info("compiling the model (once for a shape; later runs are faster)")
        self.optimizers.set_multiplier(0.0)
        self.gradients.fit(self.state.batch_tokens)
        if fresh and self.config.schedule.minutes:
            batch = batch_for(self.config, self.gradients.speed(), self.ranks)
            if batch < self.config.batch_tokens:
                log.info("steps of %d tokens: the time is short for this machine", batch)
                self.state = replace(self.state, batch_tokens=batch)
                self.gradients.fit(batch)
        if self.compiled and self.device.kind == "cuda":
            self.update = Recorded(self.optimizers.step, (), self.device.torch_device)
        elif self.compiled:
            self.update()
        self.optimizers.reset()
        self.device.synchronize()
        return time.monotonic() - began if self.compiled else 0.0

    def step(self, progress: float, *, stop_asked: bool) -> tuple[float, bool]:
        """One optimizer step. Returns the loss before it, and whether to stop."""
        began = time.monotonic()
        self.optimizers.set_multiplier(self.config.schedule.multiplier(progress) * self.state.rate_factor)
        share = self.gradients.of_step(self.state.step, self.state.batch_tokens)
        self.update()
        # Read after the update has been sent to the device: one whose loss is not finite goes back to a saved state anyway.
        loss = float(share)
        # The leader's clock counts for all, and a signal to one stops all.
        seconds = time.monotonic() - began
        loss, seconds, asked = self.ranks.sums(loss, seconds * self.ranks.leads, stop_asked)
        self.state = replace(
            self.state,
            step=self.state.step + 1,
            tokens=self.state.tokens + self.state.batch_tokens,
            seconds=self.state.seconds + seconds,
        )
        self.journal.step(
            {
                "step": self.state.step,
                "tokens": self.state.tokens,
                "seconds": round(self.state.seconds, 4),
                "loss": loss,
            },
            tokens=self.state.batch_tokens,
            seconds=seconds,
            progress=self.config.schedule.progress(self.state.step, self.state.seconds),
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
        self.journal.back_to(state.step)

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
            self.journal.bits(self.state.step, bits)
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
            self.journal.sync()

    def meta(self, *, finished: bool) -> dict[str, Any]:
        """The record of the run so far."""
        about = self.about
        stick = self.journal.stick
        return {
            **run_record(
                asdict(self.config),
                self.state,
                self.device,
                self.ranks,
                about.tokens,
                about.recipe,
                finished=finished,
            ),
            "flops_per_token": stick.flops_per_token,
            "peak_flops": stick.peak,
            "peak_name": stick.peak_name,
        }
