"""Trains a model: checks that the inputs match, joins the other ranks, runs the trainer.

Input: a token folder, its tokenizer, a model shape, a TrainingConfig. Output: a checkpoint folder.
Note: an error found on one rank is raised on all ranks, so that none waits for the others.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import distributed as dist

from smalltale.errors import FileProblem, RecipeError, SmalltaleError, first_line
from smalltale.files import read_json, refuse_foreign_folder, translate_os_errors
from smalltale.model.transformer import ModelConfig
from smalltale.tokens.token_folder import TokenFolder, read_tokens
from smalltale.tokens.tokenizer import Tokenizer
from smalltale.training.batch_size import check_batch_divides
from smalltale.training.config import TrainingConfig
from smalltale.training.device import Device, choose_device
from smalltale.training.distributed import Distributed, init_distributed
from smalltale.training.metrics_file import METRICS_NAME
from smalltale.training.run_record import compute_fingerprint
from smalltale.training.trackers import check_trackers
from smalltale.training.trainer import EvaluationCallback, RunInputs, Trainer, TrainingSummary

log = logging.getLogger(__name__)

LOCK_NAME = ".train.lock"
DEVICE_ERROR = re.compile(r"(CUDA|HIP|Triton) error|CUBLAS_STATUS|MPS backend", re.IGNORECASE)
"""Torch's messages when a GPU has disappeared, crashed or hangs."""
PEER_ERROR = re.compile(r"Connection (closed|reset) by peer|gloo/transport", re.IGNORECASE)
"""Gloo's messages when another rank has died."""


def train(
    config: TrainingConfig,
    shape: ModelConfig,
    tokens: Path,
    tokenizer: Tokenizer,
    out: Path,
    *,
    recipe: dict[str, Any] | None = None,
    record: dict[str, Any] | None = None,
    on_evaluation: EvaluationCallback | None = None,
) -> TrainingSummary:
    """Train a model from scratch, or resume an earlier run in `out`; under torchrun, on all its ranks.

    `record` (weight class, counted parameters) goes into config.json. Raises SmalltaleError when the inputs do not
    match, or when the run diverges for the second time.
    """
    with init_distributed() as distributed, ExitStack() as stack:
        facts: dict[str, Any] = {}
        try:
            data = read_tokens(tokens)
            check_inputs_match(shape, data, tokenizer, config)
            fingerprint = compute_fingerprint(asdict(config), shape, data)
            facts["recipe, tokens or options"] = fingerprint
            check_batch_divides(config, distributed)
            check_run_folder(out)
            check_trackers(config.track)
            with translate_os_errors(out):
                out.mkdir(parents=True, exist_ok=True)
            if distributed.is_main:
                stack.enter_context(lock_run_folder(out))
            device = choose_device(config.device, distributed.local_rank)
            facts["kind of device or number type"] = f"{device.kind} {device.dtype}"
        except SmalltaleError as error:
            facts["error"] = str(error)
        distributed.check_consistent(facts)
        inputs = RunInputs(recipe=recipe, record=record or {}, tokens=data.meta, fingerprint=fingerprint)
        stack.enter_context(explain_lost_device(device, distributed, out))
        trainer = Trainer(config, shape, data, tokenizer, out, device, distributed, inputs)
        stories = list(read_validation_stories(data, tokenizer, config.validation_stories))
        try:
            return trainer.fit(stories[distributed.rank :: distributed.world_size], on_evaluation)
        finally:
            trainer.close()


@contextmanager
def explain_lost_device(device: Device, distributed: Distributed, out: Path) -> Iterator[None]:
    """Turn torch's error about a lost device or rank into a SmalltaleError that says how to resume."""
    how_to_resume = f"the last good state is kept in {out}, and the same command resumes from it"
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise SmalltaleError(
            f"{device.name} has run out of memory ({first_line(error)}); {how_to_resume}: "
            "set training.micro_batch_tokens lower"
        ) from error
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or PEER_ERROR.search(str(error)):
            raise SmalltaleError(
                f"rank {distributed.rank} lost another rank ({first_line(error)}); {how_to_resume}: "
                "torchrun --max-restarts=3 does this automatically"
            ) from error
        if not DEVICE_ERROR.search(str(error)):
            raise
        raise SmalltaleError(
            f"{device.name} stopped responding ({first_line(error)}); {how_to_resume} once it is available again"
        ) from error


def check_run_folder(out: Path) -> None:
    """Raise FileProblem if `out` has files that are not from a run, before anything is written to it."""
    if not any((out / name).is_file() for name in (METRICS_NAME, LOCK_NAME)):
        refuse_foreign_folder(out)
    meta = out / "meta.json"
    kind = read_json(meta).get("kind") if meta.is_file() else "checkpoint"
    if kind != "checkpoint":
        raise FileProblem(f"{out} is the folder of a {kind}, not of a run; choose another --out")


@contextmanager
def lock_run_folder(out: Path) -> Iterator[None]:
    """Lock a run's folder against a second process that trains into it; the system releases the lock if this one dies."""
    lock = FileLock(out / LOCK_NAME)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise FileProblem(f"another process is training into {out}; wait, or choose another --out") from error
    except (OSError, NotImplementedError) as error:
        log.debug("%s cannot be locked: %s", out, error)
    try:
        yield
    finally:
        lock.release()


def check_inputs_match(
    shape: ModelConfig, data: TokenFolder, tokenizer: Tokenizer, config: TrainingConfig
) -> None:
    """Raise SmalltaleError if tokens, tokenizer, model shape and row length do not match."""
    if data.meta["tokenizer_hash"] != tokenizer.hash:
        raise SmalltaleError(
            f"the tokens were encoded with tokenizer {data.meta['tokenizer_hash'][:12]}, but this tokenizer is "
            f"{tokenizer.hash[:12]}; encode the corpus again with `smalltale tokens encode`"
        )
    if tokenizer.vocabulary_size > shape.vocabulary:
        raise RecipeError(
            f"model.vocabulary = {shape.vocabulary} is smaller than the tokenizer's {tokenizer.vocabulary_size}; "
            f"set model.vocabulary={tokenizer.vocabulary_size}"
        )
    if config.row_length > shape.context:
        raise RecipeError(
            f"training.row_length = {config.row_length} is longer than model.context = {shape.context}; "
            "lower the first or raise the second"
        )


def read_validation_stories(data: TokenFolder, tokenizer: Tokenizer, count: int) -> Iterator[str]:
    """The first `count` held-out stories of a token folder, as text."""
    for start, end in list(zip(data.val_offsets[:-1], data.val_offsets[1:], strict=True))[:count]:
        yield tokenizer.decode([int(token) for token in data.val[int(start) : int(end) - 1]])
