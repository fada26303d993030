"""The result of tracing one forward pass: the operators in which data met weights.

The tracer builds a Trace; counting reads it. An operator's name is that of ATen without namespace and overload.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from smalltale.counting.tracing.activations import Activations
from smalltale.counting.tracing.weight_regions import Mask, Operand, Weight

Kind = Literal["lookup", "product", "other"]


@dataclass(frozen=True, eq=False)
class WeightUse:
    """One operator call in which data meets weights."""

    kind: Kind
    operator: str
    location: str
    """File and line of the model's code that called it."""
    weights: list[tuple[Weight, Mask]]
    data: list[Tensor]
    """Copies of the data operands, where the tracer was asked to keep them."""
    activations: Activations | None
    """The activations that the weights met; None where the operator does not separate them."""
    first_row: Operand | None
    """A look-up's first row; for a product, the weights of its first output."""
    from_ids: bool
    """The data has met no weight yet: token ids, or values computed only from them."""
    is_output: bool = False
    """The result reaches the model's output and meets only element-wise operators on the way."""
    data_products: int = 0
    """Products with other data that its result enters as a matrix: weights turned into data."""


class UnregisteredTensor(NamedTuple):
    """A tensor that no recorded operator produced and that is neither parameter nor buffer."""

    weight: Weight
    tensor: Tensor
    location: str


@dataclass(frozen=True)
class Trace:
    """The record of one forward pass; every string tuple is free of duplicates."""

    uses: tuple[WeightUse, ...]
    problems: tuple[str, ...]
    """Why a use may have been missed."""
    branches: tuple[str, ...]
    """Where Python read a number derived from the input."""
    selections: tuple[str, ...]
    """Where data decides how many elements a tensor has."""
    unregistered: tuple[UnregisteredTensor, ...]
    module_calls: Mapping[int, int]
    """Calls of each module, by id."""
    output_is_data: bool

    def uses_of(self, weight: Weight) -> list[WeightUse]:
        return [use for use in self.uses if any(used is weight for used, _ in use.weights)]
