"""Checkpoints: the state from which a run resumes, and the model as other stages load it.

Input: a model, its optimizers, the run's state. Output: a checkpoint folder (docs/formats.md), and its content read back.
Note: each saved state is its own folder, renamed into place when complete; the latest complete one is used. A background
thread writes the files from a copy of the weights while training continues.
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
from smalltale.files import atomic_folder, read_json, translate_os_errors, write_json
from smalltale.model.serialization import read_model, save_tensors, write_model
from smalltale.model.transformer import Transformer
from smalltale.tokens.tokenizer import Tokenizer
from smalltale.training.optim import Optimizers


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Progress of a run."""

    step: int = 0
    tokens: int = 0
    """Tokens trained on so far."""
    seconds: float = 0.0
    """Seconds spent in training steps."""
    fingerprint: str
    """Hash of everything that must be the same to resume: data, shape, recipe, seed."""
    batch_tokens: int
    """Tokens per step, as chosen for the machine that started the run."""
    rate_factor: float = 1.0
    """Factor on the recipe's learning rates, less than 1 after a recovery."""
    recoveries: int = 0
    """How often the run returned to an earlier state."""
    best_bits_per_byte: float | None = None
    first_weights: str = ""
    """Hash of the weights before the first step, determined by the recipe's seed and shape."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint as generation, evaluation and export load it."""

    model: Transformer
    tokenizer: Tokenizer
    meta: dict[str, Any]


class CheckpointWriter:
    """Writes the checkpoints of one run in a background thread, one at a time; `wait` raises the thread's error."""

    def __init__(self, folder: Path, extra_config: dict[str, Any]) -> None:
        self.folder, self.extra_config = folder, extra_config
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self.pending: Future[None] | None = None

    def write_state(self, model: Transformer, optimizers: Optimizers, state: RunState) -> None:
        """Write the run's state, then the model as other stages load it, then delete older states."""
        weights, momenta = copy_to_cpu(model.state_dict()), copy_to_cpu(optimizers.state_tensors())

        def write() -> None:
            state_folder = self.folder / "training_state" / f"step-{state.step:08d}"
            with atomic_folder(state_folder) as temporary:
                save_tensors(temporary / "model.safetensors", weights)
                save_tensors(temporary / "optimizer.safetensors", momenta)
                write_json(temporary / "meta.json", {"kind": "training state", "format": 1, **asdict(state)})
            write_model(self.folder, model.config, weights, self.extra_config)
            for older in (self.folder / "training_state").glob("step-*"):
                if older != state_folder:
                    shutil.rmtree(older)

        self.submit(write)

    def write_best(self, model: Transformer, tokenizer: Tokenizer, meta: dict[str, Any]) -> None:
        """Write the model to the subfolder `best`, which is a checkpoint folder itself."""
        weights = copy_to_cpu(model.state_dict())

        def write() -> None:
            with atomic_folder(self.folder / "best") as temporary:
                write_model(temporary, model.config, weights, self.extra_config)
                tokenizer.save(temporary, {})
                write_json(temporary / "meta.json", meta)

        self.submit(write)

    def submit(self, write: Callable[[], None]) -> None:
        self.wait()
        self.pending = self.thread.submit(write)

    def wait(self) -> None:
        """Wait until the files are written. Raises FileProblem if writing failed."""
        if self.pending is not None:
            pending, self.pending = self.pending, None
            with translate_os_errors(self.folder):
                pending.result()

    def close(self) -> None:
        """End the thread after its current write."""
        self.thread.shutdown()


def copy_to_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def find_latest_state(folder: Path) -> Path | None:
    """The latest complete training state in a checkpoint folder."""
    states = sorted((folder / "training_state").glob("step-*/meta.json"))
    return states[-1].parent if states else None


def read_state(state_folder: Path, fingerprint: str) -> RunState:
    """The progress of a saved run. Raises FileProblem if the state is damaged or of a different run."""
    meta = read_json(state_folder / "meta.json")
    try:
        values = {field.name: meta[field.name] for field in fields(RunState)}
        state = TypeAdapter(RunState).validate_json(json.dumps(values), strict=True)
    except (KeyError, TypeError, ValidationError) as error:
        raise FileProblem(
            f"{state_folder} is damaged or of another version; remove {state_folder.parent} to start over"
        ) from error
    if state.fingerprint != fingerprint:
        raise FileProblem(
            f"{state_folder.parent.parent} was trained with a different recipe, data or seed; "
            "choose another --out, or remove that folder to start over"
        )
    return state


def load_state(state_folder: Path, model: Transformer, optimizers: Optimizers) -> None:
    """Copy a saved state's weights and momenta into the model and the optimizers. Raises FileProblem."""
    try:
        model.load_state_dict(load_file(state_folder / "model.safetensors"))
        optimizers.load_state_tensors(load_file(state_folder / "optimizer.safetensors"))
    except torch.OutOfMemoryError:
        raise
    except (SafetensorError, RuntimeError, KeyError, OSError) as error:
        reason = " ".join(str(error).split())[:200]  # Torch lists every tensor that does not fit.
        problem = f"{state_folder} is damaged ({reason}); remove {state_folder.parent} to start over"
        raise FileProblem(problem) from error


def load_checkpoint(folder: Path, device: str | torch.device = "cpu") -> Checkpoint:
    """A checkpoint folder's model, tokenizer and record. Raises FileProblem if a file is missing or damaged."""
    with translate_os_errors(folder):
        if not folder.is_dir():
            raise FileProblem(f"{folder} is not a checkpoint folder; give one that `smalltale train` wrote")
    model = read_model(folder).to(device)
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocabulary_size > model.config.vocabulary:
        raise FileProblem(
            f"{folder}: the tokenizer has {tokenizer.vocabulary_size} tokens, the model {model.config.vocabulary}; "
            "the files are not of one checkpoint"
        )
    path = folder / "meta.json"
    meta = read_json(path) if path.exists() else {}
    if not isinstance(meta, dict):
        raise FileProblem(f"{path} is not the record of a run; copy the checkpoint again")
    return Checkpoint(model=model, tokenizer=tokenizer, meta=meta)
