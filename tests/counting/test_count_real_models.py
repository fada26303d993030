"""Unmodified model classes of transformers against counts computed by hand. d = 8, vocabulary 11, inner 16."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from smalltale.counting.count import count_parameters

SIZES: dict[str, Any] = {
    "vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "intermediate_size": 16, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip


def mixtral() -> torch.nn.Module:
    from transformers import MixtralConfig, MixtralForCausalLM

    return MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2))


def t5() -> torch.nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(
        T5Config(vocab_size=11, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2)
    )


def mamba() -> torch.nn.Module:
    from transformers import MambaConfig, MambaForCausalLM

    return MambaForCausalLM(MambaConfig(vocab_size=11, hidden_size=8, num_hidden_layers=2, state_size=4))


CASES = {
    # embedding and head 2·88, a norm 8, and two layers: norms 16, attention 2·64 + 2·32, router 32, four experts of 3·128
    "mixtral": (mixtral, 184 + 2 * (16 + 192 + 32 + 4 * 384), 184 + 2 * (16 + 192 + 32 + 4 * 384)),
    # the table 88; per encoder layer 4·64 + 2·128 + 2·8, per decoder layer 8·64 + 2·128 + 3·8; two norms 16; two biases 32·2.
    # Looked up for both sides and decoded: one use more than a pair. Of each bias the buckets within 64 positions, 27 on
    # either side, are added in both layers: 27·2.
    "t5": (t5, 88 + 2 * 528 + 2 * 792 + 16 + 128, 2 * 88 + 2 * 528 + 2 * 792 + 16 + 128 + 2 * 27 * 2),
    # the table 88, a norm 8, and two layers of inner 16, state 4, rank 1: norm 8, in 2·16·8, conv 16·4 + 16,
    # x 16·(1 + 2·4), dt 16 + 16, A 16·4, D 16, out 16·8
    "mamba": (mamba, 96 + 2 * (8 + 256 + 80 + 144 + 32 + 64 + 16 + 128), 96 + 2 * 728),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_count_of_each_transformers_class_equals_the_one_computed_by_hand(name: str) -> None:
    torch.manual_seed(0)
    make, unique, counted = CASES[name]
    report = count_parameters(make())
    assert (report.unique, report.counted) == (unique, counted), report.notes
    assert report.proven, report.notes
