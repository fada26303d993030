"""Opens models of other trainers behind one interface: token ids in, logits out.

Input: a checkpoint folder whose config.json names nanoGPT's architecture or a Hugging Face model_type, with safetensors
weights. Output: a ForeignModel. No code from the folder is run and no pickle is opened.
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
from smalltale.files import read_json, translate_os_errors
from smalltale.model.architectures import CONTEXT_KEYS, VOCABULARY_KEYS, build_model, read_config_number
from smalltale.model.gpt import GPT, GPT_ARCHITECTURE, GPTConfig
from smalltale.model.serialization import ARCHITECTURE
from smalltale.model.weights_file import check_weights


@dataclass(frozen=True, kw_only=True)
class ForeignModelConfig:
    """What evaluation reads from a model's config."""

    vocabulary: int
    context: int


class ForeignModel(nn.Module):
    """ids (B, T) -> float32 logits (B, T, V), whatever the wrapped module returns."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.config = ForeignModelConfig(
            vocabulary=read_config_number(inner, VOCABULARY_KEYS) or 0,
            context=read_config_number(inner, CONTEXT_KEYS) or 1024,
        )

    def forward(self, ids: Tensor) -> Tensor:
        output: Any = self.inner(ids)
        logits: Tensor = output if isinstance(output, Tensor) else output.logits
        return logits.float()


def is_foreign(folder: Path) -> bool:
    """Whether a folder's model was trained by another trainer."""
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or config.get("architecture") == ARCHITECTURE:
        return False
    return config.get("architecture") == GPT_ARCHITECTURE or "model_type" in config


def load_gpt(folder: Path) -> GPT:
    """A nanoGPT model with its weights, in float32. Raises FileProblem."""
    config_path, weights_path = folder / "config.json", folder / "model.safetensors"
    model = GPT(GPTConfig.from_dict(read_json(config_path), config_path))
    with translate_os_errors(weights_path):
        check_weights(model, weights_path)
        weights = load_file(weights_path)
    # strict=False: embedding and head share one tensor, which the file holds once
    model.load_state_dict(weights, strict=False)
    return model.eval()


def open_foreign_model(folder: Path, device: torch.device | str = "cpu") -> ForeignModel:
    """The model of a folder with its weights, in float32 and evaluation mode. Raises FileProblem."""
    config = read_json(folder / "config.json")
    if config.get("architecture") == GPT_ARCHITECTURE:
        return ForeignModel(load_gpt(folder)).to(device).eval()
    model = build_model(folder)
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise FileProblem(f"{folder} has no safetensors file; give a complete model folder")
    if len(paths) == 1:
        check_weights(model, paths[0])
    try:
        weights = {name: tensor for path in paths for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise FileProblem(f"{folder}: {error}; copy the weights again") from error
    missing_names, _ = model.load_state_dict(weights, strict=False)
    state = model.state_dict(keep_vars=True)
    loaded_storage = {state[name].data_ptr() for name in weights if name in state}
    unloaded = [name for name in missing_names if state[name].data_ptr() not in loaded_storage]
    if unloaded:
        raise FileProblem(f"{folder} lacks the weight {unloaded[0]}; give a complete model folder")
    return ForeignModel(model).to(device).eval()
