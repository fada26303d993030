"""Builds the module that a checkpoint folder's config.json describes.

Input: a folder with a config.json of smalltale, nanoGPT or transformers. Output: the module, without its trained weights.
Code in a folder is run only if the caller sets `trust_remote_code`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from smalltale.errors import FileProblem, SmalltaleError
from smalltale.files import read_json
from smalltale.model.gpt import GPT, GPT_ARCHITECTURE, GPTConfig
from smalltale.model.serialization import ARCHITECTURE, read_model_config
from smalltale.model.transformer import Transformer

VOCABULARY_KEYS = (
    "vocabulary", "vocab_size", "n_vocab", "padded_vocab_size", "num_tokens", "n_tokens", "ntoken",
)  # fmt: skip
"""Config keys of the vocabulary size, in order of preference."""
CONTEXT_KEYS = (
    "context", "max_position_embeddings", "n_positions", "block_size", "max_seq_len", "max_seq_length", "context_length",
    "sequence_length", "seq_len", "n_ctx", "max_sequence_length", "max_len", "ctx_len",
)  # fmt: skip
"""Config keys of the context length. BigBird's block_size is a block of its sparse attention, so it comes later."""
FORWARD_ERRORS = (
    RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError, ImportError,
    NotImplementedError,
)  # fmt: skip
"""What code of other authors may raise in a constructor or a forward pass; any other exception is a bug of ours."""


def build_model(folder: Path, trust_remote_code: bool = False) -> nn.Module:
    """The module that a checkpoint folder's config.json describes; weights are neither needed nor read."""
    path = folder / "config.json"
    config = read_json(path)
    if isinstance(config, dict) and config.get("architecture") == ARCHITECTURE:
        return Transformer(read_model_config(folder))
    if isinstance(config, dict) and config.get("architecture") == GPT_ARCHITECTURE:
        return GPT(GPTConfig.from_dict(config, path))
    if not isinstance(config, dict) or "model_type" not in config:
        raise FileProblem(
            f"{path} names neither the architecture smalltale or nanogpt nor a model_type; "
            "give the model as package.module:factory"
        )
    return build_hugging_face_model(folder, config, trust_remote_code)


def build_hugging_face_model(folder: Path, config: dict[str, Any], trust_remote_code: bool) -> nn.Module:
    """The architecture of a Hugging Face folder. Raises SmalltaleError if it needs code from the folder."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    path = folder / "config.json"
    if "auto_map" in config and not trust_remote_code:
        raise SmalltaleError(
            f"{path} names code in its folder (auto_map), which is not run; add --trust-remote-code if you trust it"
        )
    try:
        trust = {"trust_remote_code": trust_remote_code}
        hf_config = AutoConfig.from_pretrained(folder, local_files_only=True, **trust)
        auto_class = AutoModelForSeq2SeqLM if hf_config.is_encoder_decoder else AutoModelForCausalLM
        model: nn.Module = auto_class.from_config(hf_config, **trust)  # type: ignore[no-untyped-call]
    except (*FORWARD_ERRORS, OSError) as error:
        raise FileProblem(
            f"{path}: building the model failed ({type(error).__name__}: {str(error)[:200]}); correct the config"
        ) from error
    return model


def read_config_number(model: nn.Module, keys: tuple[str, ...]) -> int | None:
    """The first positive integer under one of these keys in the model's config or on the model itself."""
    config = getattr(model, "config", None)
    alternatives = (getattr(model, "cfg", None), getattr(model, "args", None), model)
    for source in (config, getattr(config, "text_config", None), *alternatives):
        for key in keys:
            number = source.get(key) if isinstance(source, dict) else getattr(source, key, None)
            if isinstance(number, int) and not isinstance(number, bool) and number > 0:
                return number
    return None
