"""Builds inputs of any length for a model of which only the module, or one example input, is available.

Input: a module, and inputs or None. Output: ModelInputs, which builds arguments of a length with a seed.
Without inputs the module must take token ids (1, T); vocabulary and context come from its config, else the vocabulary
from its first embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from smalltale.counting.tracing.operator_calls import map_tensors
from smalltale.errors import SmalltaleError
from smalltale.model.architectures import CONTEXT_KEYS, VOCABULARY_KEYS, read_config_number

MAX_CONTEXT = 1024
"""A declared context is measured up to this many tokens."""
DEFAULT_CONTEXT = 64
BATCH_ROWS = 3
"""Rows of the batch that is measured in addition to single rows."""
SHORT_LENGTHS = (1, 2, 8)
"""Lengths measured with values and several seeds, in addition to the context."""
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class ModelInputs:
    """A model, and arguments for it at any length."""

    model: nn.Module
    arguments: Callable[[int, int, int], Arguments]
    """(length, seed, start) -> arguments; those of two seeds differ from position `start` on."""
    context: int
    fixed_length: bool
    unit: str = "position"
    """What a length counts: positions of one row, or rows."""
    unit_positions: int = 1
    """Positions per unit: 1, or the length of a row."""

    @property
    def on_meta(self) -> bool:
        """Whether the model has no values."""
        return any(parameter.is_meta for parameter in self.model.parameters())

    def batched(self, row_length: int) -> ModelInputs:
        """The same model over a batch of rows of `row_length` positions; a length is then a number of rows."""

        def concatenate(*leaves: Any) -> Any:
            return torch.cat(leaves) if isinstance(leaves[0], Tensor) and leaves[0].dim() else leaves[0]

        def batch(rows: int, seed: int, start: int) -> Arguments:
            seeds = [row + rows * seed * (row >= start) for row in range(rows)]
            arguments = [self.arguments(row_length, row_seed, 0) for row_seed in seeds]
            return tree_map(concatenate, *arguments)  # type: ignore[no-any-return]

        return ModelInputs(self.model, batch, BATCH_ROWS, False, "row", row_length)


def prepare_inputs(model: nn.Module, inputs: Any) -> ModelInputs:
    """Inputs for `model`. Raises SmalltaleError if none can be built."""
    if inputs is None:
        return token_inputs(model)
    positional = inputs if isinstance(inputs, tuple | list) else (inputs,)
    args, kwargs = ((), dict(inputs)) if isinstance(inputs, Mapping) else (tuple(positional), {})
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if not tensors:
        raise SmalltaleError("the inputs contain no tensor; pass at least one, for example token ids (1, T)")
    example_length = next((tensor.shape[1] for tensor in tensors if tensor.dim() >= 2), 1)

    def vary(length: int, seed: int, start: int) -> Arguments:
        return map_tensors(  # type: ignore[no-any-return]
            lambda tensor: vary_tensor(tensor, example_length, length, seed, start), (args, kwargs)
        )

    return ModelInputs(model, vary, example_length, fixed_length=example_length == 1)


def token_inputs(model: nn.Module) -> ModelInputs:
    """Token ids (1, T) from the model's vocabulary; for an encoder-decoder the same ids for both sides."""
    embeddings = (module for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag))
    embedding_rows = next((embedding.num_embeddings for embedding in embeddings), None)
    vocabulary = read_config_number(model, VOCABULARY_KEYS) or embedding_rows
    if vocabulary is None:
        raise SmalltaleError(
            f"{type(model).__name__} has no embedding and no config with a vocabulary size, so no input can be built "
            "for it; give count_parameters its inputs"
        )
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    context = min(read_config_number(model, CONTEXT_KEYS) or DEFAULT_CONTEXT, MAX_CONTEXT)
    encoder_decoder = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))

    def arguments(length: int, seed: int, start: int) -> Arguments:
        ids = token_ids(vocabulary, length, seed, start).to(device)
        return (ids,), {"decoder_input_ids": ids.clone()} if encoder_decoder else {}

    return ModelInputs(model, arguments, context, fixed_length=False)


def token_ids(vocabulary: int, length: int, seed: int, start: int) -> Tensor:
    """(1, length) ids: those of seed 0 before `start`, shifted by the seed from there on, never equal to seed 0's."""
    generator = torch.Generator().manual_seed(20_25)
    ids = torch.randint(0, vocabulary, (1, length), generator=generator)
    if seed:
        ids[:, start:] = (ids[:, start:] + 1 + (seed * 7919) % max(1, vocabulary - 1)) % vocabulary
    return ids


def vary_tensor(tensor: Tensor, example_length: int, length: int, seed: int, start: int) -> Tensor:
    """The tensor's first row, cut to `length` positions, with other numbers from `start` on unless seed is 0."""
    if tensor.dim() < 2 or tensor.shape[1] != example_length:
        return tensor.clone()
    row = tensor[:1, :length].clone()
    if seed and length > start:
        tail = row[:, start:]
        if row.is_floating_point():
            generator = torch.Generator().manual_seed(seed)
            row[:, start:] = tail + torch.randn(tail.shape, generator=generator, dtype=torch.float32).to(row)
        elif row.dtype == torch.int64:
            row[:, start:] = (tail + seed) % max(int(tensor.max()) + 1, 2)
    return row
