"""What one forward pass showed: the operators in which data met weights.

In: nothing. Out: Meeting and Trace, filled by trace.py and read by tally.py, positions.py and weights.py.
Beware: a name here is an ATen operator's, without its namespace and overload.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from smalltale.counting.tracing.activations import Vectors
from smalltale.counting.tracing.weight_regions import Mask, Operand, Weight

Kind = Literal["lookup", "product", "other"]
LOOKUPS = {
    "embedding", "index", "index_select", "gather", "take", "_embedding_bag", "_embedding_bag_forward_only", "embedding_bag",
}  # fmt: skip
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "linear", "matmul", "dot", "_scaled_mm"}
SHAPE_ONLY = {
    "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like", "new_zeros",
    "new_ones", "new_empty", "new_full", "new_empty_strided", "_has_compatible_shallow_copy_type",
}  # fmt: skip
"""Operators that read no number of their operand."""
KNOWN_NAMESPACES = {"aten", "prims", "prim", "quantized_decomposed", "_c10d_functional"}


@dataclass(eq=False)
class Meeting:
    """One operator in which data met weights."""

    kind: Kind
    operator: str
    place: str
    """File and line of the model's code that called it."""
    operands: list[Operand]
    """The operands that weights stand behind."""
    weights: list[tuple[Weight, Mask]]
    data: list[Tensor]
    """Copies of the data operands, where the tracer was asked to keep them."""
    vectors: Vectors | None
    """The activations that the weights met, None where they are not told apart."""
    slice: Operand | None
    """A look-up's first row, or what makes a product's first output."""
    from_ids: bool
    """The data had met no weight before: token ids, or what is computed of them alone."""
    ends: bool = False
    """What it made reaches the output, and on the way meets further weights element by element at most."""
    applied: int = 0
    """Products with other data that its result, weights turned into data, enters as a matrix."""


@dataclass
class Trace:
    """What one forward pass showed."""

    meetings: list[Meeting] = field(default_factory=list)
    problems: dict[str, None] = field(default_factory=dict)
    """Why something may have been missed; an ordered set."""
    branches: dict[str, None] = field(default_factory=dict)
    """Where Python read a number derived from the input."""
    picks: dict[str, None] = field(default_factory=dict)
    """Where data decides how many elements there are."""
    strangers: list[tuple[Weight, Tensor, str]] = field(default_factory=list)
    """Tensors that no operator made and that belong to no parameter or buffer, and where they were met."""
    calls: dict[int, int] = field(default_factory=dict)
    """Calls of each module, by id."""
    output_is_data: bool = False


def meetings_of(trace: Trace, weight: Weight) -> list[tuple[Meeting, Mask]]:
    """The meetings in which a weight was used, with the elements that were."""
    return [
        (meeting, mask) for meeting in trace.meetings for other, mask in meeting.weights if other is weight
    ]
