"""The training loop: runs from the start, or from the last saved state, to the end of the budget.

Input: a token folder, a model shape, a TrainingConfig. Output: a checkpoint folder that can be resumed, with metrics.jsonl.
Note: the time budget counts training steps only, not compilation, evaluation and saving.
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
from smalltale.tokens.token_folder import TokenFolder
from smalltale.tokens.tokenizer import Tokenizer
from smalltale.training.batch_size import choose_batch_tokens, max_tokens_in_memory
from smalltale.training.batches import PackedRows
from smalltale.training.checkpoint import (
    CheckpointWriter,
    RunState,
    find_latest_state,
    load_state,
    read_state,
)
from smalltale.training.config import TrainingConfig
from smalltale.training.device import Device
from smalltale.training.distributed import Distributed
from smalltale.training.divergence import DivergenceGuard
from smalltale.training.evaluate import evaluate
from smalltale.training.gradients import CudaGraphFunction, GradientAccumulator
from smalltale.training.optim import Optimizers
from smalltale.training.run_logger import RunLogger
from smalltale.training.run_record import build_run_record, hash_weights
from smalltale.training.signals import StopRequests
from smalltale.training.throughput import make_mfu_baseline

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingSummary:
    """Result of a finished run."""

    steps: int
    tokens: int
    seconds: float
    """Seconds spent in training steps."""
    compile_seconds: float
    tokens_per_second: float
    """Over the steps of this process."""
    final_loss: float
    bits_per_byte: float | None
    """On the validation stories used during training."""
    is_main: bool
    """Whether this process is rank 0, the only one that reports the run."""


EvaluationCallback = Callable[[Transformer, RunState], None]
"""Called after each evaluation, for example to print a sample story."""


@dataclass(frozen=True, kw_only=True)
class RunInputs:
    """Facts for the run's record that the trainer itself does not know."""

    recipe: dict[str, Any] | None
    record: dict[str, Any]
    """Fields added to config.json: weight class, counted parameters."""
    tokens: dict[str, Any]
    """The token folder's meta.json."""
    fingerprint: str


class Trainer:
    """Model, optimizers, data, clock and logger of one run on one rank."""

    def __init__(
        self,
        config: TrainingConfig,
        shape: ModelConfig,
        data: TokenFolder,
        tokenizer: Tokenizer,
        out: Path,
        device: Device,
        distributed: Distributed,
        inputs: RunInputs,
    ) -> None:
        self.config, self.tokenizer, self.out = config, tokenizer, out
        self.device, self.distributed, self.inputs = device, distributed, inputs
        torch.manual_seed(config.seed)
        self.model = Transformer(shape, dropout=config.dropout).to(device.torch_device)
        self.compiled = config.compile and device.compiles
        self.optimizers = Optimizers(
            self.model, config.optim, distributed, dtype=device.dtype, compiled=self.compiled
        )
        rows = PackedRows(
            data,
            config.row_length,
            seed=config.seed,
            rank=distributed.rank,
            world_size=distributed.world_size,
            device=device.torch_device,
        )
        self.state = RunState(
            fingerprint=inputs.fingerprint,
            batch_tokens=config.batch_tokens,
            first_weights=hash_weights(self.model),
        )
        self.gradients = GradientAccumulator(
            self.model,
            rows,
            device,
            distributed,
            head_rows=config.head_rows,
            compiled=self.compiled,
            max_micro_tokens=config.micro_batch_tokens or max_tokens_in_memory(shape, device),
            seed=config.seed,
        )
        self.apply_update: Callable[[], None] = self.optimizers.step
        self.checkpoints = CheckpointWriter(out, inputs.record)
        self.divergence_guard = DivergenceGuard()
        self.logger = RunLogger(
            out,
            device,
            make_mfu_baseline(shape.flops_per_token(config.row_length), device, distributed.world_size),
            config.track,
            asdict(config),
            silent=not distributed.is_main,
        )

    def fit(self, stories: list[str], on_evaluation: EvaluationCallback | None) -> TrainingSummary:
        """Train to the end of the budget. stories: this rank's share of the validation stories."""
        state_folder = find_latest_state(self.out)
        if state_folder is not None:
            self.state = read_state(state_folder, self.inputs.fingerprint)
        compile_seconds = self.warm_up(fresh=state_folder is None)
        if state_folder is not None:
            self.restore(state_folder, self.state)
            log.info("resuming from step %d, after %.0f s", self.state.step, self.state.seconds)
        first, schedule = self.state, self.config.schedule
        self.save(finished=False)
        saved_at = time.monotonic()
        evaluate_at = self.next_evaluation(schedule.progress(first.step, first.seconds))
        with StopRequests() as stop:
            while (progress := schedule.progress(self.state.step, self.state.seconds)) < 1:
                loss, stop_requested = self.train_step(progress, stop_requested=stop.requested)
                if problem := self.divergence_guard.check(loss):
                    self.recover(problem)
                    continue
                progress = schedule.progress(self.state.step, self.state.seconds)
                if progress >= evaluate_at:
                    evaluate_at = self.next_evaluation(progress)
                    if progress == 1:  # A failing evaluation must not lose a finished run.
                        self.save(finished=False)
                    self.evaluate(stories, on_evaluation)
                if stop_requested:
                    self.save(finished=False)
                    self.checkpoints.wait()
                    raise KeyboardInterrupt
                save_is_due = time.monotonic() - saved_at > self.config.checkpoint_seconds
                if save_is_due and self.divergence_guard.is_stable:
                    self.save(finished=False)
                    saved_at = time.monotonic()
        self.save(finished=True)
        self.checkpoints.wait()
        seconds, tokens = self.state.seconds - first.seconds, self.state.tokens - first.tokens
        last_row = self.logger.last_row
        return TrainingSummary(
            steps=self.state.step,
            tokens=self.state.tokens,
            seconds=self.state.seconds,
            compile_seconds=compile_seconds,
            tokens_per_second=tokens / seconds if seconds else 0.0,
            final_loss=last_row.get("loss", math.nan),
            bits_per_byte=last_row.get("bits_per_byte"),
            is_main=self.distributed.is_main,
        )

    def close(self) -> None:
        """Finish writing files; called however the run ended."""
        self.logger.close()
        self.checkpoints.close()

    def warm_up(self, *, fresh: bool) -> float:
        """Compile and choose the batch sizes before the clock starts, without changing weights. Returns its seconds if it compiled."""
        started = time.monotonic()
        if self.compiled:
            log.info("compiling the model (cached by shape; later runs start faster)")
        self.optimizers.set_multiplier(0.0)
        self.gradients.fit_micro_batch(self.state.batch_tokens)
        if fresh and self.config.schedule.minutes:
            batch_tokens = choose_batch_tokens(self.config, self.gradients.measure_speed(), self.distributed)
            if batch_tokens < self.config.batch_tokens:
                log.info("batch reduced to %s tokens to fit the time limit", f"{batch_tokens:,}")
                self.state = replace(self.state, batch_tokens=batch_tokens)
                self.gradients.fit_micro_batch(batch_tokens)
        if self.compiled and self.device.kind == "cuda":
            self.apply_update = CudaGraphFunction(self.optimizers.step, (), self.device.torch_device)
        elif self.compiled:
            self.apply_update()
        self.optimizers.reset()
        self.device.synchronize()
        return time.monotonic() - started if self.compiled else 0.0

    def train_step(self, progress: float, *, stop_requested: bool) -> tuple[float, bool]:
        """One optimizer step. Returns the loss before it, and whether any rank has been asked to stop."""
        started = time.monotonic()
        self.optimizers.set_multiplier(self.config.schedule.multiplier(progress) * self.state.rate_factor)
        loss_share = self.gradients.accumulate(self.state.step, self.state.batch_tokens)
        self.apply_update()
        # Reading the loss waits for the device, so the update is queued first. A loss that is not finite restores a saved state.
        loss = float(loss_share)
        # All ranks use the clock of rank 0, and a signal to one rank stops all.
        seconds = time.monotonic() - started
        loss, seconds, stopping = self.distributed.all_reduce_sum(
            loss, seconds * self.distributed.is_main, stop_requested
        )
        self.state = replace(
            self.state,
            step=self.state.step + 1,
            tokens=self.state.tokens + self.state.batch_tokens,
            seconds=self.state.seconds + seconds,
        )
        state = self.state
        row = {"step": state.step, "tokens": state.tokens, "seconds": round(state.seconds, 4), "loss": loss}
        progress = self.config.schedule.progress(state.step, state.seconds)
        self.logger.log_step(row, tokens=state.batch_tokens, seconds=seconds, progress=progress)
        return loss, stopping > 0

    def recover(self, problem: str) -> None:
        """Return to the last saved state with half the learning rates. Raises SmalltaleError the second time."""
        self.checkpoints.wait()
        state_folder = find_latest_state(self.out)
        if state_folder is None or self.state.recoveries:
            raise SmalltaleError(
                f"{problem} at step {self.state.step}{', after one recovery' if self.state.recoveries else ''}; "
                f"the run stopped, the last good state is kept in {self.out}: lower training.optim.matrix_rate and "
                "training.optim.embedding_rate, and train into a new folder"
            )
        log.warning("%s at step %d; resuming the last good state at half the rates", problem, self.state.step)
        state = read_state(state_folder, self.inputs.fingerprint)
        state = replace(state, recoveries=state.recoveries + 1, rate_factor=state.rate_factor / 2)
        self.restore(state_folder, state)
        self.divergence_guard = DivergenceGuard()
        self.save(finished=False)

    def restore(self, state_folder: Path, state: RunState) -> None:
        """Load the weights and momenta of a saved state and continue as `state`."""
        load_state(state_folder, self.model, self.optimizers)
        self.state = state
        self.logger.rewind(state.step)

    def next_evaluation(self, progress: float) -> float:
        """The progress at which the next evaluation is due."""
        count = max(1, self.config.evaluations)
        return (math.floor(progress * count + 1e-9) + 1) / count

    def evaluate(self, stories: list[str], on_evaluation: EvaluationCallback | None) -> None:
        """Measure bits per byte on this rank's share of the stories, summed over the ranks; keep the best model."""
        score = evaluate(self.model, self.tokenizer, stories) if stories else None
        nats, size = self.distributed.all_reduce_sum(*((score.nats, score.bytes) if score else (0.0, 0)))
        if size:
            bits_per_byte = nats / math.log(2) / size
            self.logger.log_bits_per_byte(self.state.step, bits_per_byte)
            best = self.state.best_bits_per_byte
            if best is None or bits_per_byte < best:
                self.state = replace(self.state, best_bits_per_byte=bits_per_byte)
                if self.distributed.is_main:
                    self.checkpoints.write_best(self.model, self.tokenizer, self.meta(finished=False))
        if on_evaluation is not None and self.distributed.is_main:
            on_evaluation(self.model, self.state)

    def save(self, *, finished: bool) -> None:
        """Save state, record and metrics."""
        if self.distributed.is_main:
            self.tokenizer.save(self.out, {})
            self.checkpoints.write_state(self.model, self.optimizers, self.state)
            write_json(self.out / "meta.json", self.meta(finished=finished))
            self.logger.sync()

    def meta(self, *, finished: bool) -> dict[str, Any]:
        """The content of meta.json at this point of the run."""
        record = build_run_record(
            asdict(self.config),
            self.state,
            self.device,
            self.distributed,
            self.inputs.tokens,
            self.inputs.recipe,
            finished=finished,
        )
        return {**record, **asdict(self.logger.baseline)}
