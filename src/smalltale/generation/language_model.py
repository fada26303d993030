"""The interface of models that complete prompts, and the opening of them from a folder or a factory.

Input: a smalltale checkpoint, nanoGPT or Hugging Face folder, or `package.module:factory`. Output: a LanguageModel.
Only code that the user names (`package.module:factory`) is run; code in a folder is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

import torch

from smalltale.errors import FileProblem, SmalltaleError
from smalltale.files import read_json
from smalltale.generation.hf_model import HuggingFaceModel, NextLogitsAdapter, UncachedModel
from smalltale.generation.inference_weights import Decoder, InferenceWeights
from smalltale.generation.native_decoder import NativeDecoder, load_native_library
from smalltale.generation.torch_decoder import TorchDecoder
from smalltale.model.factory import call_factory
from smalltale.model.gpt import GPT_ARCHITECTURE
from smalltale.model.serialization import ARCHITECTURE
from smalltale.model.transformer import Transformer
from smalltale.tokens.tokenizer import Tokenizer
from smalltale.training.checkpoint import load_checkpoint
from smalltale.training.device import choose_device

DEFAULT_BATCH = {"cpu": 320, "cuda": 512, "mps": 128}
"""Rows per batch by device, if the recipe does not set generation.batch."""


class LanguageModel(Protocol):
    """What `generate_completions` needs from a model."""

    context: int
    """Maximum number of tokens of start token, prompt and completion together."""
    batch: int
    """Default number of rows per batch."""
    refill: float
    """Share of the batch that must be free before new rows are added."""

    def encode(self, prompt: str) -> list[int]:
        """The ids to read before the first token is generated, including a start token."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""

    def ends(self, token: int) -> bool:
        """Whether a token ends the story."""

    def decoder(self, rows: int, longest_prompt: int, max_new_tokens: int) -> Decoder:
        """A decoder for up to `rows` rows, each with a prompt of up to `longest_prompt` tokens."""


@dataclass
class NativeModel:
    """A Transformer and its tokenizer. Prompts follow an end-of-story token, as every story does in training."""

    model: Transformer
    tokenizer: Tokenizer
    dtype: torch.dtype
    native: bool = True
    """Use the compiled decoder on a CPU."""
    refill: float = 1 / 8
    weights: InferenceWeights = field(init=False)

    def __post_init__(self) -> None:
        self.weights = InferenceWeights(self.model, self.dtype)
        self.context = self.model.config.context
        self.batch = DEFAULT_BATCH[self.weights.device.type]

    def encode(self, prompt: str) -> list[int]:
        return [self.tokenizer.end_id, *self.tokenizer.encode(prompt)]

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids)

    def ends(self, token: int) -> bool:
        return token == self.tokenizer.end_id

    def decoder(self, rows: int, longest_prompt: int, max_new_tokens: int) -> Decoder:
        library = load_native_library() if self.native and self.weights.device.type == "cpu" else None
        if library is not None:
            return NativeDecoder(self.weights, library, rows, longest_prompt, max_new_tokens)
        return TorchDecoder(self.weights, longest_prompt, max_new_tokens)


def open_language_model(source: str, device: str = "auto", dtype: str = "auto") -> LanguageModel:
    """A checkpoint folder of smalltale, nanoGPT or Hugging Face, or `package.module:factory`. Raises FileProblem."""
    path = Path(source)
    if ":" in source and not path.exists():
        return load_from_factory(source)
    config = read_json(path / "config.json")
    config = config if isinstance(config, dict) else {}
    torch_device = choose_device(device).torch_device
    if config.get("architecture") == ARCHITECTURE:
        checkpoint = load_checkpoint(path, torch_device)
        return NativeModel(checkpoint.model, checkpoint.tokenizer, choose_dtype(torch_device, dtype))
    if config.get("architecture") == GPT_ARCHITECTURE:
        return NextLogitsAdapter(UncachedModel.open(path, torch_device))
    if "model_type" in config:
        return HuggingFaceModel.open(path, torch_device, choose_dtype(torch_device, dtype))
    raise FileProblem(
        f"{path / 'config.json'} names neither the architecture smalltale or nanogpt nor a Hugging Face model_type; "
        "give a checkpoint folder, or package.module:factory"
    )


def choose_dtype(device: torch.device, dtype: str) -> torch.dtype:
    """The dtype of this name; for auto, bfloat16 if the device multiplies in it."""
    if dtype != "auto":
        return cast(torch.dtype, getattr(torch, dtype))
    return choose_device(device.type).dtype


def load_from_factory(source: str) -> LanguageModel:
    """The object that `package.module:factory` returns: a LanguageModel, or a NextLogitsModel, which is wrapped."""
    model = call_factory(source)
    if hasattr(model, "decoder"):
        return cast(LanguageModel, model)
    if all(hasattr(model, name) for name in ("encode", "decode", "ends", "next_logits", "context")):
        return NextLogitsAdapter(model)
    raise SmalltaleError(
        f"{source} returned a {type(model).__name__} without encode, decode, ends, context and next_logits; "
        "see docs/generation.md for what a factory returns"
    )
