"""Shapes of our Transformer that fill a weight class.

Input: a budget of counted parameters. Output: ModelConfigs just under the budget, largest first.
The count is transformer.py's closed form; tests compare it with `count_parameters`.
"""

from __future__ import annotations

from dataclasses import replace

from smalltale.model.transformer import ModelConfig

HEAD_WIDTH = 64
VOCABULARIES = (2048, 4096, 8192)


def closed_form_count(config: ModelConfig) -> int:
    """Counted parameters of our Transformer: matrices, and two scalars per layer."""
    return config.matrix_parameters() + (2 * config.layers if config.residual_scalars else 0)


def propose_shapes(budget: int) -> list[ModelConfig]:
    """For each vocabulary and width the deepest model of 4 to 24 layers within the budget; largest first."""
    shapes = []
    for vocabulary in VOCABULARIES:
        for width in range(128, 2049, HEAD_WIDTH):
            shape = ModelConfig(vocabulary=vocabulary, width=width, heads=width // HEAD_WIDTH, layers=1)
            one_layer, two_layers = closed_form_count(shape), closed_form_count(replace(shape, layers=2))
            layers = (budget - (2 * one_layer - two_layers)) // (two_layers - one_layer)
            if 4 <= layers <= 24:
                shapes.append(replace(shape, layers=layers))
    return sorted(shapes, key=closed_form_count, reverse=True)
