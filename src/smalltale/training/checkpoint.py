"""Checkpoints: what a run keeps, so that it resumes and others can use it.

In: a model, optimizers, where the run is. Out: a checkpoint folder (docs/formats.md), read back whole.
Beware: the state to resume from is a folder of its own, renamed into place; the newest whole one counts.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from smalltale.errors import FileProblem
from smalltale.files import explained, new_folder, read_json, write_json
from smalltale.model.folder import read_model, save_tensors, write_model
from smalltale.model.transformer import Transformer
from smalltale.tokens.tokenizer import Tokenizer
from smalltale.training.optim import Optimizers


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


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A checkpoint as other stages use it."""

    model: Transformer
    tokenizer: Tokenizer
    meta: dict[str, Any]


def save_checkpoint(
    folder: Path, model: Transformer, optimizers: Optimizers, state: RunState, extra: dict[str, Any]
) -> None:
    """Keep the run's state, then the model as others read it, then drop older states."""
    place = folder / "training_state" / f"step-{state.step:08d}"
    with new_folder(place) as temporary:
        save_tensors(temporary / "model.safetensors", model.state_dict())
        save_tensors(temporary / "optimizer.safetensors", optimizers.tensors())
        write_json(temporary / "meta.json", {"kind": "training state", "format": 1, **asdict(state)})
    write_model(folder, model, extra)
    for older in (folder / "training_state").glob("step-*"):
        if older != place:
            shutil.rmtree(older)


def newest_state(folder: Path) -> Path | None:
    """The last whole training state of a checkpoint folder."""
    states = sorted((folder / "training_state").glob("step-*/meta.json"))
    return states[-1].parent if states else None


def resume(place: Path, model: Transformer, optimizers: Optimizers, fingerprint: str) -> RunState:
    """Put a saved state into the model and the optimizers. Raises FileProblem where it is of another run."""
    table = read_json(place / "meta.json")
    state = RunState(**{key: table[key] for key in ("step", "tokens", "seconds", "fingerprint")})
    if state.fingerprint != fingerprint:
        raise FileProblem(
            f"{place.parent.parent} holds a run with another recipe, data or seed; "
            "choose another --out, or remove that folder to start over"
        )
    device = model.embedding.weight.device
    try:
        weights = load_file(place / "model.safetensors", device=str(device))
        optimizers.load_tensors(load_file(place / "optimizer.safetensors", device=str(device)))
        model.load_state_dict(weights)
    except (SafetensorError, RuntimeError) as error:
        raise FileProblem(f"{place} is damaged ({error}); remove it to start over") from error
    return state


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
    meta = folder / "meta.json"
    return LoadedModel(model=model, tokenizer=tokenizer, meta=read_json(meta) if meta.exists() else {})
