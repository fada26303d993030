"""What can write stories: a checkpoint of ours, a Hugging Face causal model, or any callable.

In: a folder, or `package.module:factory`. Out: a Storyteller.
Beware: code is run only where the user names it (`package.module:factory`); nothing in a folder is ever run.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import torch

from smalltale.errors import FileProblem, SmalltaleError
from smalltale.files import read_json
from smalltale.generation.inference_weights import Decoder, Weights
from smalltale.generation.native_decoder import NativeDecoder, native_library
from smalltale.generation.torch_decoder import TorchDecoder
from smalltale.model.gpt import GPT_ARCHITECTURE
from smalltale.model.serialization import ARCHITECTURE
from smalltale.model.transformer import Transformer
from smalltale.tokens.tokenizer import Tokenizer
from smalltale.training.checkpoint import load_model
from smalltale.training.device import choose_device

BATCH = {"cpu": 320, "cuda": 512, "mps": 128}
"""Rows at once by device, where the recipe leaves it open."""


class Storyteller(Protocol):
    """The one protocol between models and `complete`."""

    context: int
    """Tokens it reads at most, the prompt and what comes before it included."""
    batch: int
    """Rows at once that suit it."""
    refill: float
    """Take in new rows when so large a share of the batch is free."""

    def encode(self, prompt: str) -> list[int]:
        """The ids to read before the first token is written, a start token included."""

    def decode(self, ids: Sequence[int]) -> str:
        """The words of ids."""

    def ends(self, token: int) -> bool:
        """Whether a token ends the story."""

    def decoder(self, rows: int, longest_prompt: int, room: int) -> Decoder:
        """A decoder for at most so many rows, each with `room` tokens behind its prompt."""


@dataclass
class Ours:
    """A Transformer and its tokenizer; a story is read from the end-of-story token on, as in training."""

    model: Transformer
    tokenizer: Tokenizer
    dtype: torch.dtype
    native: bool = True
    """Whether a CPU may use the compiled decoder."""
    refill: float = 1 / 8
    weights: Weights = field(init=False)

    def __post_init__(self) -> None:
        self.weights = Weights(self.model, self.dtype)
        self.context = self.model.config.context
        self.batch = BATCH[self.weights.device.type]

    def encode(self, prompt: str) -> list[int]:
        return [self.tokenizer.end_id, *self.tokenizer.encode(prompt)]

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids)

    def ends(self, token: int) -> bool:
        return token == self.tokenizer.end_id

    def decoder(self, rows: int, longest_prompt: int, room: int) -> Decoder:
        library = native_library() if self.native and self.weights.device.type == "cpu" else None
        if library is not None:
            return NativeDecoder(self.weights, library, rows, longest_prompt, room)
        return TorchDecoder(self.weights, longest_prompt, room)


def open_storyteller(place: str, device: str = "auto", dtype: str = "auto") -> Storyteller:
    """A checkpoint folder of ours or of Hugging Face, or `package.module:factory`. Raises FileProblem."""
    path = Path(place)
    if ":" in place and not path.exists():
        return from_factory(place)
    config = read_json(path / "config.json")
    if isinstance(config, dict) and config.get("architecture") == ARCHITECTURE:
        loaded = load_model(path, choose_device(device).torch_device)
        return Ours(loaded.model, loaded.tokenizer, choose_dtype(loaded.model.embedding.weight.device, dtype))
    if isinstance(config, dict) and config.get("architecture") == GPT_ARCHITECTURE:
        from smalltale.generation.hf_model import Rereader, StepByStep

        return StepByStep(Rereader.open(path, choose_device(device).torch_device))
    if isinstance(config, dict) and "model_type" in config:
        from smalltale.generation.hf_model import HuggingFace

        where = choose_device(device).torch_device
        return HuggingFace.open(path, where, choose_dtype(where, dtype))
    raise FileProblem(
        f"{path / 'config.json'} names neither the architecture smalltale or nanogpt nor a Hugging Face model_type; "
        "give a checkpoint folder, or package.module:factory"
    )


def choose_dtype(device: torch.device, wish: str) -> torch.dtype:
    """The wished number type, or bfloat16 where the device multiplies in it."""
    if wish != "auto":
        return cast(torch.dtype, getattr(torch, wish))
    return choose_device(device.type).dtype


def from_factory(place: str) -> Storyteller:
    """What `package.module:factory` returns when called: a Storyteller, or an object with `next_logits`."""
    from smalltale.generation.hf_model import StepByStep

    module_name, _, name = place.partition(":")
    try:
        factory: Any = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SmalltaleError(
            f"{place} cannot be imported ({error}); give package.module:factory, with the package on PYTHONPATH"
        ) from error
    made = factory()
    if hasattr(made, "decoder"):
        return cast(Storyteller, made)
    if all(hasattr(made, each) for each in ("encode", "decode", "ends", "next_logits", "context")):
        return StepByStep(made)
    raise SmalltaleError(
        f"{place} returned a {type(made).__name__} without encode, decode, ends, context and next_logits; "
        "see docs/generation.md for what a factory returns"
    )
