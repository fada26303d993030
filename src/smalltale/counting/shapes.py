"""Shapes of our Transformer that fill a weight class.

In: a budget and a vocabulary. Out: ModelConfigs just under the budget, from deep to wide.
Beware: the count is the closed form of transformer.py; tests hold it to `count_parameters`.
"""

from __future__ import annotations

from dataclasses import replace

from smalltale.model.transformer import ModelConfig

HEAD = 64
VOCABULARIES = (2048, 4096, 8192)


def closed_form(config: ModelConfig) -> int:
    """Counted parameters of our Transformer: matrices, and two scalars a layer."""
    return config.matrix_parameters() + (2 * config.layers if config.residual_scalars else 0)


def plan(budget: int, vocabularies: tuple[int, ...] = VOCABULARIES) -> list[ModelConfig]:
    """For each vocabulary and width the deepest model within the budget, of 4 to 24 layers; the fullest first."""
    found = []
    for vocabulary in vocabularies:
        for width in range(128, 2049, HEAD):
            small = ModelConfig(vocabulary=vocabulary, width=width, heads=width // HEAD, layers=1)
            one, two = closed_form(small), closed_form(replace(small, layers=2))
            layers = (budget - (2 * one - two)) // (two - one)
            if 4 <= layers <= 24:
                found.append(replace(small, layers=layers))
    return sorted(found, key=closed_form, reverse=True)
