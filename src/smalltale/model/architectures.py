"""Builds the module that a checkpoint folder's config.json describes.

In: a folder with config.json of ours, nanoGPT's or transformers'. Out: a module without its trained weights.
Beware: no code of a folder is run unless the caller allows it.
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

VOCABULARY_NAMES = (
    "vocabulary",
    "vocab_size",
    "n_vocab",
    "padded_vocab_size",
    "num_tokens",
    "n_tokens",
    "ntoken",
)
CONTEXT_NAMES = (
    "context", "block_size", "max_position_embeddings", "n_positions", "max_seq_len", "max_seq_length", "context_length",
    "sequence_length", "seq_len", "n_ctx", "max_sequence_length", "max_len", "ctx_len",
)  # fmt: skip
FORWARD_ERRORS = (
    RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError, ImportError,
    NotImplementedError,
)  # fmt: skip
"""What a stranger's forward may raise; anything else is a bug of ours."""


def model_of_folder(folder: Path, trust_remote_code: bool = False) -> nn.Module:
    """The module that a checkpoint folder's config.json describes; weights are neither needed nor read."""
    config = read_json(folder / "config.json")
    if isinstance(config, dict) and config.get("architecture") == ARCHITECTURE:
        return Transformer(read_model_config(folder))
    if isinstance(config, dict) and config.get("architecture") == GPT_ARCHITECTURE:
        return GPT(GPTConfig.read(config, str(folder / "config.json")))
    if not isinstance(config, dict) or "model_type" not in config:
        raise FileProblem(
            f"{folder / 'config.json'} names neither the architecture smalltale or nanogpt nor a model_type; "
            "give the model as package.module:factory"
        )
    return hugging_face_model(folder, config, trust_remote_code)


def hugging_face_model(folder: Path, config: dict[str, Any], trust_remote_code: bool) -> nn.Module:
    """The architecture of a Hugging Face folder. Raises SmalltaleError where it needs the folder's own code."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    if "auto_map" in config and not trust_remote_code:
        raise SmalltaleError(
            f"{folder / 'config.json'} asks for code of its own (auto_map), which is not run; "
            "say --trust-remote-code if you trust it"
        )
    try:
        read = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
        maker = AutoModelForSeq2SeqLM if read.is_encoder_decoder else AutoModelForCausalLM
        model: nn.Module = maker.from_config(read, trust_remote_code=trust_remote_code)  # type: ignore[no-untyped-call]
    except (*FORWARD_ERRORS, OSError) as error:
        raise FileProblem(
            f"{folder / 'config.json'}: building the model failed ({type(error).__name__}: {str(error)[:200]}); mend the config"
        ) from error
    return model


def declared_number(model: nn.Module, names: tuple[str, ...]) -> int | None:
    """The first whole number of one of these names in the model's config or on the model."""
    config = getattr(model, "config", None)
    for holder in (
        config,
        getattr(config, "text_config", None),
        getattr(model, "cfg", None),
        getattr(model, "args", None),
        model,
    ):
        for name in names:
            value = holder.get(name) if isinstance(holder, dict) else getattr(holder, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None
