"""Train a model: check that the parts fit, join the other ranks, run the loop.

In: a token folder, its tokenizer, a model shape, a TrainingConfig. Out: a checkpoint folder.
Beware: what one rank finds wrong is raised on all of them, so that none waits for the others.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from smalltale.errors import FileProblem, RecipeError, SmalltaleError
from smalltale.files import explained, read_json, refuse_foreign_folder
from smalltale.model.transformer import ModelConfig
from smalltale.tokens.shards import TokenFolder, read_tokens
from smalltale.tokens.tokenizer import Tokenizer
from smalltale.training.batch_size import refuse_uneven
from smalltale.training.config import TrainingConfig
from smalltale.training.device import Device, choose_device
from smalltale.training.distributed import Ranks, joined
from smalltale.training.metrics_file import NAME as METRICS
from smalltale.training.run_record import fingerprint
from smalltale.training.trackers import refuse_unknown
from smalltale.training.trainer import About, Trainer, TrainingSummary, Watcher

log = logging.getLogger(__name__)

CARD = re.compile(r"(CUDA|HIP|Triton) error|CUBLAS_STATUS|MPS backend", re.IGNORECASE)
"""What torch says where a card is gone, has crashed or hangs."""
OTHER_RANK = re.compile(r"Connection (closed|reset) by peer|gloo/transport", re.IGNORECASE)
"""What Gloo says where another rank is gone."""


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
    with joined() as ranks, ExitStack() as held:
        told: dict[str, Any] = {}
        try:
            data = read_tokens(tokens)
            check_fit(shape, data, tokenizer, config)
            told["recipe, tokens or options"] = mark = fingerprint(asdict(config), shape, data)
            refuse_uneven(config, ranks)
            refuse_other_folder(out)
            refuse_unknown(config.track)
            with explained(out):
                out.mkdir(parents=True, exist_ok=True)
            if ranks.leads:
                held.enter_context(claimed(out))
            device = choose_device(config.device, ranks.local)
            told["kind of device or number type"] = f"{device.kind} {device.dtype}"
        except SmalltaleError as error:
            told["error"] = str(error)
        ranks.agree(told)
        about = About(recipe=recipe, record=record or {}, tokens=data.meta, fingerprint=mark)
        held.enter_context(lost_devices(device, ranks, out))
        run = Trainer(config, shape, data, tokenizer, out, device, ranks, about)
        validation = list(validation_stories(data, tokenizer, config.validation_stories))
        try:
            return run.fit(validation[ranks.rank :: ranks.size], watch)
        finally:
            run.close()


@contextmanager
def lost_devices(device: Device, ranks: Ranks, out: Path) -> Iterator[None]:
    """Say in words what a card or a rank that is gone leaves behind: the last good state, to go on from."""
    kept = f"the last good state is kept in {out}, and the same command goes on from there"
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise SmalltaleError(
            f"{device.name} has run out of memory ({first_line(error)}); {kept}: set training.micro_batch_tokens lower"
        ) from error
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or OTHER_RANK.search(str(error)):
            raise SmalltaleError(
                f"rank {ranks.rank} lost another rank ({first_line(error)}); {kept}: "
                "torchrun --max-restarts=3 does it by itself"
            ) from error
        if not CARD.search(str(error)):
            raise
        raise SmalltaleError(
            f"{device.name} stopped answering ({first_line(error)}); {kept} once it is back"
        ) from error


def first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def refuse_other_folder(out: Path) -> None:
    """Raise FileProblem where `out` holds something that is no run, so that nothing is written into it."""
    if not (out / METRICS).is_file():
        refuse_foreign_folder(out)
    meta = out / "meta.json"
    kind = read_json(meta).get("kind") if meta.is_file() else "checkpoint"
    if kind != "checkpoint":
        raise FileProblem(f"{out} holds {kind!r}, not a run; choose another --out")


@contextmanager
def claimed(out: Path) -> Iterator[None]:
    """Hold a run's folder, so that no second process trains into it; the system lets go of it however this one ends."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    folder = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FileProblem(
                f"another process is training into {out}; wait for it, or choose another --out"
            ) from error
        except OSError as error:
            log.debug("%s cannot be locked here: %s", out, error)
        yield
    finally:
        os.close(folder)


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
