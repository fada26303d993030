"""Inputs of chosen lengths for a model that nobody has described, and forward passes that say what went wrong.

In: a module, and inputs or nothing. Out: a Forwards that calls the module at a length with a seed.
Beware: without inputs the module is taken to want token ids (1, T); its vocabulary and context are read off its config
or its first embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from smalltale.errors import SmalltaleError
from smalltale.model.architectures import CONTEXT_NAMES, VOCABULARY_NAMES, declared_number

LONGEST = 1024
"""A declared context is measured up to this many tokens."""
UNDECLARED = 64
ROWS = 3
"""Rows of the batch that is measured beside single rows."""
SHORT_LENGTHS = (1, 2, 8)
"""Measured beside the context; over numbers and several inputs."""


@dataclass(frozen=True)
class Forwards:
    """How to call a model at any length."""

    model: nn.Module
    make: Callable[[int, int, int], tuple[tuple[Any, ...], dict[str, Any]]]
    """(length, seed, from position) -> arguments; two seeds differ from that position on."""
    context: int
    declared: bool
    fixed: bool
    """The inputs have no length to change."""
    unit: str = "position"
    """What a length counts: positions of one row, or rows."""
    unit_positions: int = 1

    def arguments(self, length: int, seed: int, start: int = 0) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return self.make(length, seed, start)

    def by_rows(self, length: int) -> Forwards:
        """The same model over a batch of rows of `length` positions; the rows are counted instead."""

        def rows(number: int, seed: int, start: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
            seeds = [row + number * seed * (row >= start) for row in range(number)]
            several = [self.make(length, each, 0) for each in seeds]
            return tree_map(  # type: ignore[no-any-return]
                lambda *each: torch.cat(each) if isinstance(each[0], Tensor) and each[0].dim() else each[0],
                *several,
            )

        return Forwards(self.model, rows, ROWS, True, False, "row", length)


def describe_forwards(model: nn.Module, inputs: Any) -> Forwards:
    """How to call `model`. Raises SmalltaleError where that cannot be told."""
    device = next((each.device for each in model.parameters()), torch.device("cpu"))
    declared = declared_number(model, CONTEXT_NAMES)
    if inputs is None:
        vocabulary = declared_number(model, VOCABULARY_NAMES) or first_embedding(model)
        if vocabulary is None:
            raise SmalltaleError(
                f"{type(model).__name__} has no embedding and no config that names a vocabulary, so no input can be made "
                "for it; give count_parameters its inputs"
            )
        positions = min(declared or UNDECLARED, LONGEST)
        encoder_decoder = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))

        def ids(length: int, seed: int, start: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
            made = token_ids(vocabulary, length, seed, start).to(device)
            return (made,), {"decoder_input_ids": made.clone()} if encoder_decoder else {}

        return Forwards(model, ids, positions, declared is not None, False)
    args, kwargs = ((), dict(inputs)) if isinstance(inputs, Mapping) else (tuple_of(inputs), {})
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    if not tensors:
        raise SmalltaleError("the inputs hold no tensor; give at least one, for example token ids (1, T)")
    length = next((each.shape[1] for each in tensors if each.dim() >= 2), 1)

    def cut(wanted: int, seed: int, start: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return tree_map(  # type: ignore[no-any-return]
            lambda each: changed(each, length, wanted, seed, start) if isinstance(each, Tensor) else each,
            (args, kwargs),
        )

    return Forwards(model, cut, length, True, length == 1)


def tuple_of(inputs: Any) -> tuple[Any, ...]:
    return tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)


def token_ids(vocabulary: int, length: int, seed: int, start: int) -> Tensor:
    """(1, length) ids: those of seed 0 before `start`, shifted by the seed from there on, never equal to seed 0's."""
    generator = torch.Generator().manual_seed(20_25)
    made = torch.randint(0, vocabulary, (1, length), generator=generator)
    if seed:
        made[:, start:] = (made[:, start:] + 1 + (seed * 7919) % max(1, vocabulary - 1)) % vocabulary
    return made


def changed(tensor: Tensor, length: int, wanted: int, seed: int, start: int) -> Tensor:
    """The tensor's first row, cut to `wanted` positions; other numbers from `start` on where seed is not 0."""
    if tensor.dim() < 2 or tensor.shape[1] != length:
        return tensor.clone()
    made = tensor[:1, :wanted].clone()
    if seed and wanted > start:
        tail = made[:, start:]
        if made.is_floating_point():
            generator = torch.Generator().manual_seed(seed)
            made[:, start:] = tail + torch.randn(tail.shape, generator=generator, dtype=torch.float32).to(
                made
            )
        elif made.dtype == torch.int64:
            top = int(tensor.max()) + 1
            made[:, start:] = (tail + seed) % max(top, 2)
    return made


def first_embedding(model: nn.Module) -> int | None:
    """Rows of the model's first embedding; of its first two-axis weight where it has no embedding module."""
    for module in model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            return module.num_embeddings
    return None
