"""Models that came in from another trainer, opened as one thing: ids in, logits out.

In: a checkpoint folder whose config.json names nanoGPT's architecture or a Hugging Face model_type. Out: an OutsideModel.
Beware: no code of the folder is run and no pickle opened; the weights are safetensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from smalltale.errors import FileProblem
from smalltale.files import explained, read_json
from smalltale.model.architectures import CONTEXT_NAMES, VOCABULARY_NAMES, declared_number, model_of_folder
from smalltale.model.gpt import GPT, GPT_ARCHITECTURE, GPTConfig
from smalltale.model.serialization import ARCHITECTURE
from smalltale.model.weights_file import check_weights


@dataclass(frozen=True, kw_only=True)
class OutsideShape:
    """What scoring needs to know of a model."""

    vocabulary: int
    context: int


class OutsideModel(nn.Module):
    """ids (B, T) -> float32 logits (B, T, V), whatever class is inside."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.config = OutsideShape(
            vocabulary=declared_number(inner, VOCABULARY_NAMES) or 0,
            context=declared_number(inner, CONTEXT_NAMES) or 1024,
        )

    def forward(self, ids: Tensor) -> Tensor:
        answer: Any = self.inner(ids)
        logits: Tensor = answer if isinstance(answer, Tensor) else answer.logits
        return logits.float()


def is_outside(folder: Path) -> bool:
    """Whether a folder holds a model that another trainer made."""
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or config.get("architecture") == ARCHITECTURE:
        return False
    return config.get("architecture") == GPT_ARCHITECTURE or "model_type" in config


def read_gpt(folder: Path) -> GPT:
    """A nanoGPT model with its weights, in float32. Raises FileProblem."""
    model = GPT(GPTConfig.read(read_json(folder / "config.json"), str(folder / "config.json")))
    path = folder / "model.safetensors"
    with explained(path):
        check_weights(model, path)
        weights = load_file(path)
    # The pair of embedding and head is one weight, kept once.
    model.load_state_dict(weights, strict=False)
    return model.eval()


def open_outside(folder: Path, device: torch.device | str = "cpu") -> OutsideModel:
    """The model of a folder with its weights, in float32 and evaluation mode. Raises FileProblem."""
    config = read_json(folder / "config.json")
    if config.get("architecture") == GPT_ARCHITECTURE:
        return OutsideModel(read_gpt(folder)).to(device).eval()
    model = model_of_folder(folder)
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise FileProblem(f"{folder} holds no safetensors file; give a whole model folder")
    if len(paths) == 1:
        check_weights(model, paths[0])
    try:
        weights = {name: each for path in paths for name, each in load_file(path).items()}
    except SafetensorError as error:
        raise FileProblem(f"{folder}: {error}; copy the weights again") from error
    missing, _ = model.load_state_dict(weights, strict=False)
    state = model.state_dict(keep_vars=True)
    loaded = {state[name].data_ptr() for name in weights if name in state}
    untied = [name for name in missing if state[name].data_ptr() not in loaded]
    if untied:
        raise FileProblem(f"{folder} lacks the weight {untied[0]}; give a whole model folder")
    return OutsideModel(model).to(device).eval()
