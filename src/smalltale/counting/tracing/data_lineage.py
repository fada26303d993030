"""The history of data through one forward pass: which products it passed, and which weights it still carries.

Input: operators over data, as the tracer sees them. Output: for each weight use, whether its result ends in the output (then
it may be a decoder), and how often its result was multiplied with other data as if it were a weight.
A history belongs to a storage, so all views of it share one. Sets of weight uses are integers with a bit per use.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from smalltale.counting.tracing.operator_calls import PRODUCTS, storage_key
from smalltale.counting.tracing.trace import WeightUse

MULTIPLIES = PRODUCTS | {"convolution", "_grouped_mm"}


class DataHistory(NamedTuple):
    """The history of one storage of data; `decoders` and `carried` are sets of weight uses."""

    met_weight: bool = False
    decoders: int = 0
    """Products that may be a decoder."""
    carried: int = 0
    """Uses whose weights can be read off the data: looked up, written among data, or multiplied by a matrix (`is_matrix`) of data."""


class DataLineage:
    """The history of every storage of data, by storage key, and the weight uses on the way."""

    def __init__(self) -> None:
        self.histories: dict[int, DataHistory] = {}
        self.uses: list[WeightUse] = []
        self.inner_products = 0
        """Products whose results are mixed further, so they are no decoders."""
        self.data_products: Counter[int] = Counter()

    def combine(self, data: list[Tensor]) -> DataHistory:
        met_weight, decoders, carried = False, 0, 0
        for tensor in data:
            history = self.histories.get(storage_key(tensor), DataHistory())
            met_weight |= history.met_weight
            decoders |= history.decoders
            carried |= history.carried
        return DataHistory(met_weight, decoders, carried)

    def add_use(
        self, use: WeightUse, data: list[Tensor], keeps_elements: bool, results: list[Tensor]
    ) -> DataHistory:
        """Record a use; returns the history of its results.

        keeps_elements: the operator moves elements or is element-wise.
        """
        history = self.combine(data)
        use_bit = 1 << len(self.uses)
        self.uses.append(use)
        if not keeps_elements:
            self.inner_products |= history.decoders
        lookup, product = use.kind == "lookup", use.kind == "product"
        shows_weight = keeps_elements or lookup or writes_into(use.operator)
        multiplies_matrix = not shows_weight and any(map(is_matrix, data))
        decoders = history.decoders | use_bit if product else history.decoders
        carried = history.carried if multiplies_matrix or (shows_weight and not lookup) else 0
        result_size = max(map(Tensor.numel, results))
        uniform_data = all(tensor.numel() < result_size or is_uniform(tensor) for tensor in data)
        if (
            lookup
            or (shows_weight and (uniform_data or any(map(is_matrix, results))))
            or (multiplies_matrix and product)
        ):
            carried |= use_bit
        return DataHistory(True, decoders, carried)

    def mix_data(self, name: str, data: list[Tensor], elementwise: bool) -> DataHistory:
        """The history of the result of an operator over data and constants."""
        history = self.combine(data)
        if len(data) < 2:
            return history
        multiplies = name in MULTIPLIES or "attention" in name
        for tensor in data:
            carried = self.combine([tensor]).carried
            broadcast = elementwise and any(operand.shape[-2:] != tensor.shape[-2:] for operand in data)
            if carried and (multiplies or broadcast) and is_matrix(tensor):
                self.inner_products |= history.decoders
                self.data_products.update(n for n in range(carried.bit_length()) if carried >> n & 1)
        return history._replace(carried=0) if multiplies else history

    def finish_uses(self, outputs: list[Tensor]) -> tuple[WeightUse, ...]:
        """The uses in order, with `is_output` and `data_products`."""
        decoders = self.combine(outputs).decoders & ~self.inner_products
        return tuple(
            replace(use, is_output=bool(decoders >> number & 1), data_products=self.data_products[number])
            for number, use in enumerate(self.uses)
        )


def writes_into(operator: str) -> bool:
    """Whether an operator writes some numbers among others."""
    return "scatter" in operator or operator.startswith(("index_", "put"))


def is_uniform(tensor: Tensor) -> bool:
    """Whether all its numbers are equal."""
    return not tensor.is_meta and (tensor.numel() < 2 or bool((tensor == tensor.reshape(-1)[0]).all()))


def is_matrix(tensor: Tensor) -> bool:
    """Whether two of its rows are linearly independent; on the meta device whether its shape allows that."""
    shape = [size for size in tensor.shape if size > 1]
    kernel_of_one = tensor.dim() > 2 and tensor.shape[-1] == 1  # a convolution kernel of width 1
    if len(shape) < 2 or tensor.dtype == torch.bool or (min(tensor.shape[-2:]) == 1 and not kernel_of_one):
        return False
    if tensor.is_meta:
        return True
    reals = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    rows = reals.reshape(-1, shape[-1]).double()
    norms = rows.norm(dim=-1)
    rows, norms = rows[norms > 0], norms[norms > 0]
    if len(rows) < 2:
        return False
    return bool(((rows @ rows[0]).abs() < (1 - 1e-9) * norms * norms[0]).any())
