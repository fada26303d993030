"""Checkpoints: what a run keeps, so that it resumes and others can use it.

In: a model, optimizers, where the run is. Out: a checkpoint folder (docs/formats.md), read back whole.
Beware: the state to resume from is a folder of its own, renamed into place; the newest whole one counts. Files are
written beside the training, from a copy of the weights.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from smalltale.errors import FileProblem
from smalltale.files import explained, new_folder, read_json, write_json
from smalltale.model.serialization import read_model, save_tensors, write_model
from smalltale.model.transformer import Transformer
from smalltale.tokens.tokenizer import Tokenizer
from smalltale.training.optim import Optimizers

SAID = 200
"""Characters at most of what torch says of a damaged file."""


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Where a run is."""

    step: int
    tokens: int
    """Tokens trained on so far."""
    seconds: float
    """Seconds spent in training steps."""
    fingerprint: str
    """Hash of everything that must be the same to go on: data, shape, recipe, seed."""
    batch_tokens: int
    """Tokens a step, as fitted to the machine that began the run."""
    rate_factor: float = 1.0
    """Share of the recipe's learning rates in use: less than 1 after a recovery."""
    recoveries: int = 0
    """How often the run went back to an earlier state."""
    best_bits_per_byte: float | None = None
    first_weights: str = ""
    """Hash of the weights before the first step, which the recipe's seed and shape give."""


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A checkpoint as other stages use it."""

    model: Transformer
    tokenizer: Tokenizer
    meta: dict[str, Any]


class Saver:
    """Writes checkpoints of one run, one at a time, in a thread; `wait` raises what went wrong there."""

    def __init__(self, folder: Path, extra: dict[str, Any]) -> None:
        self.folder, self.extra = folder, extra
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self.under_way: Future[None] | None = None

    def last(self, model: Transformer, optimizers: Optimizers, state: RunState) -> None:
        """Keep the run's state, then the model as others read it, then drop older states."""
        weights, momenta = copied(model.state_dict()), copied(optimizers.tensors())

        def write() -> None:
            place = self.folder / "training_state" / f"step-{state.step:08d}"
            with new_folder(place) as temporary:
                save_tensors(temporary / "model.safetensors", weights)
                save_tensors(temporary / "optimizer.safetensors", momenta)
                write_json(temporary / "meta.json", {"kind": "training state", "format": 1, **asdict(state)})
            write_model(self.folder, model.config, weights, self.extra)
            for older in (self.folder / "training_state").glob("step-*"):
                if older != place:
                    shutil.rmtree(older)

        self.begin(write)

    def best(self, model: Transformer, tokenizer: Tokenizer, meta: dict[str, Any]) -> None:
        """Keep the model as the folder's `best`, a checkpoint folder of its own."""
        weights = copied(model.state_dict())

        def write() -> None:
            with new_folder(self.folder / "best") as temporary:
                write_model(temporary, model.config, weights, self.extra)
                tokenizer.save(temporary, {})
                write_json(temporary / "meta.json", meta)

        self.begin(write)

    def begin(self, write: Callable[[], None]) -> None:
        self.wait()
        self.under_way = self.thread.submit(write)

    def wait(self) -> None:
        """Until the files are written. Raises FileProblem where they could not be."""
        if self.under_way is not None:
            under_way, self.under_way = self.under_way, None
            with explained(self.folder):
                under_way.result()

    def close(self) -> None:
        """End the thread, after what it is writing."""
        self.thread.shutdown()


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as they are now, in main memory."""
    return {name: each.detach().to("cpu", copy=True) for name, each in tensors.items()}


def newest_state(folder: Path) -> Path | None:
    """The last whole training state of a checkpoint folder."""
    states = sorted((folder / "training_state").glob("step-*/meta.json"))
    return states[-1].parent if states else None


def read_state(place: Path, fingerprint: str) -> RunState:
    """Where a saved run was. Raises FileProblem where it is of another run."""
    table = read_json(place / "meta.json")
    try:
        told = {each.name: table[each.name] for each in fields(RunState)}
        state = TypeAdapter(RunState).validate_json(json.dumps(told), strict=True)
    except (KeyError, TypeError, ValidationError) as error:
        raise FileProblem(
            f"{place} is damaged or of another version; remove {place.parent} to start over"
        ) from error
    if state.fingerprint != fingerprint:
        raise FileProblem(
            f"{place.parent.parent} holds a run with another recipe, data or seed; "
            "choose another --out, or remove that folder to start over"
        )
    return state


def load_state(place: Path, model: Transformer, optimizers: Optimizers) -> None:
    """Put a saved state's weights and momenta where the model and the optimizers have theirs. Raises FileProblem."""
    try:
        model.load_state_dict(load_file(place / "model.safetensors"))
        optimizers.load_tensors(load_file(place / "optimizer.safetensors"))
    except torch.OutOfMemoryError:
        raise
    except (SafetensorError, RuntimeError, KeyError, OSError) as error:
        why = " ".join(str(error).split())[:SAID]
        raise FileProblem(f"{place} is damaged ({why}); remove {place.parent} to start over") from error


def load_model(folder: Path, device: str | torch.device = "cpu") -> LoadedModel:
    """A checkpoint folder's model, tokenizer and record. Raises FileProblem where something is missing."""
    with explained(folder):
        if not folder.is_dir():
            raise FileProblem(f"{folder} is not a checkpoint folder; give one that `smalltale train` wrote")
    model = read_model(folder).to(device)
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocabulary > model.config.vocabulary:
        raise FileProblem(
            f"{folder}: the tokenizer has {tokenizer.vocabulary} tokens, the model {model.config.vocabulary}; "
            "the files are not of one checkpoint"
        )
    path = folder / "meta.json"
    meta = read_json(path) if path.exists() else {}
    if not isinstance(meta, dict):
        raise FileProblem(f"{path} holds no record of a run; copy the checkpoint again")
    return LoadedModel(model=model, tokenizer=tokenizer, meta=meta)
