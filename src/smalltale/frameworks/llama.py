"""The Llama that most recipes train, in Hugging Face's words: the one class nearly every trainer can hold.

In: a Plan, or weights by their Hugging Face names. Out: a config.json's table, a Native.
Beware: the embedding is the head too. A file may hold both copies; they must be equal, and one is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from smalltale.errors import FileProblem
from smalltale.frameworks.framework import Native, Plan
from smalltale.tokens.shards import TokenFolder

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def llama_config(plan: Plan, tokens: TokenFolder) -> dict[str, Any]:
    """config.json of a Llama of that shape."""
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


def retied(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights with a tied head kept once. Raises FileProblem where the two copies differ."""
    kept = dict(weights)
    if not config.get("tie_word_embeddings", False):
        return kept
    head = kept.pop(HEAD, None)
    if head is None:
        return kept
    if EMBEDDING not in kept:
        return {**kept, EMBEDDING: head}
    if not torch.equal(head, kept[EMBEDDING]):
        raise FileProblem(
            f"{HEAD} and {EMBEDDING} differ, though config.json ties them; "
            "the run trained two weights: set tie_word_embeddings to false, and both are counted"
        )
    return kept


def native_llama(weights: Mapping[str, Tensor], config: dict[str, Any]) -> Native:
    """Weights by Hugging Face names, wrappers' prefixes before them or not, as a Native. Raises FileProblem."""
    anchor = next((name for name in weights if name.endswith(EMBEDDING)), None)
    if anchor is None:
        raise FileProblem(
            f"the checkpoint has no weight {EMBEDDING} (it begins with {', '.join(list(weights)[:3])}); "
            "train the exported recipe's Llama, or name its framework with --from"
        )
    prefix = anchor.removesuffix(EMBEDDING)
    own = {name.removeprefix(prefix): each for name, each in weights.items() if name.startswith(prefix)}
    return Native(config=config, weights=retied(own, config))
