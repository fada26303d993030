"""The Llama that most recipes train, in Hugging Face's format, because nearly every trainer supports it.

The embedding is tied to the output head. A file may contain both copies: they must be equal, and one is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from smalltale.errors import FileProblem
from smalltale.frameworks.framework import ExportPlan, ImportedModel
from smalltale.tokens.token_folder import TokenFolder

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def llama_config(plan: ExportPlan, tokens: TokenFolder) -> dict[str, Any]:
    """Build config.json of a Llama with the plan's shape."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": plan.vocabulary,
        "hidden_size": plan.width,
        "intermediate_size": plan.hidden,
        "num_hidden_layers": plan.layers,
        "num_attention_heads": plan.heads,
        "num_key_value_heads": plan.heads,
        "max_position_embeddings": plan.context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "initializer_range": 0.02,
        "bos_token_id": tokens.meta["end_id"],
        "eos_token_id": tokens.meta["end_id"],
        "pad_token_id": tokens.meta["pad_id"],
    }


def drop_tied_head(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights with only one copy of a tied head. Raises FileProblem if the two copies differ."""
    untied = dict(weights)
    if not config.get("tie_word_embeddings", False):
        return untied
    head = untied.pop(HEAD, None)
    if head is None:
        return untied
    if EMBEDDING not in untied:
        return {**untied, EMBEDDING: head}
    if not torch.equal(head, untied[EMBEDDING]):
        raise FileProblem(
            f"{HEAD} and {EMBEDDING} differ, though config.json ties them; "
            "the run trained two weights: set tie_word_embeddings to false to count both"
        )
    return untied


def import_llama(weights: Mapping[str, Tensor], config: dict[str, Any]) -> ImportedModel:
    """Build an ImportedModel from weights with Hugging Face names and any wrapper prefix. Raises FileProblem."""
    anchor = next((name for name in weights if name.endswith(EMBEDDING)), None)
    if anchor is None:
        raise FileProblem(
            f"the checkpoint has no weight {EMBEDDING} (it begins with {', '.join(list(weights)[:3])}); "
            "train the exported recipe's Llama, or name its framework with --from"
        )
    prefix = anchor.removesuffix(EMBEDDING)
    prefixed = ((name, weight) for name, weight in weights.items() if name.startswith(prefix))
    unprefixed = {name.removeprefix(prefix): weight for name, weight in prefixed}
    return ImportedModel(config=config, weights=drop_tied_head(unprefixed, config))
