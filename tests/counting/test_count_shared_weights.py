"""Embedding and decoder are one use; any other pair of uses is two. d = 8, vocabulary 11: a table of 88."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from architectures import D, FunctionModel, V, linear, linear_to_v, matrix
from torch import Tensor, nn
from torch.nn import functional as F

from smalltale.counting.count import count_parameters


def tied_around(middle: Callable[[nn.Module, Tensor], Tensor]) -> Callable[[nn.Module, Tensor], Tensor]:
    """Look up, run the middle, decode with the same table."""
    return lambda m, ids: F.linear(middle(m, m.e(ids)), m.e.weight)


def table(rows: int = V, width: int = D) -> nn.Embedding:
    return nn.Embedding(rows, width)


CASES: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    # name: (model, unique, counted)
    "tied, with a layer between": (
        lambda: FunctionModel(tied_around(lambda m, x: m.inner(x)), e=table(), inner=linear()), 88 + 64, 88 + 64,
    ),
    # looked up, and a matrix of the middle: 2·88; separate head
    "look-up plus middle product": (
        lambda: FunctionModel(lambda m, ids: m.head(m.back(F.linear(m.e(ids), m.e.weight).relu())), e=table(), back=nn.Linear(V, D, bias=False), head=linear_to_v()),
        88 + 88 + 88, 2 * 88 + 88 + 88,
    ),
    # softmax(x Eᵀ) E with a separate head: look-up and two products
    "a table that attends to itself": (
        lambda: FunctionModel(lambda m, ids: m.head(F.linear(m.e(ids), m.e.weight).softmax(-1) @ m.e.weight), e=table(), head=linear_to_v()),
        88 + 88, 3 * 88 + 88,
    ),
    # look-up, decoder and one product between
    "tied plus a product of the middle": (
        lambda: FunctionModel(tied_around(lambda m, x: m.back(F.linear(x, m.e.weight))), e=table(), back=nn.Linear(V, D, bias=False)),
        88 + 88, 2 * 88 + 88,
    ),
    "tied plus a second look-up": (
        lambda: FunctionModel(lambda m, ids: F.linear(m.inner(m.e(ids)) + m.e((ids * 3) % V), m.e.weight), e=table(), inner=linear()),
        88 + 64, 2 * 88 + 64,
    ),
    # logits of this token and of the next one, both by the table
    "two tied heads": (
        lambda: FunctionModel(lambda m, ids: (F.linear(x := m.e(ids), m.e.weight), F.linear(m.inner(x), m.e.weight)), e=table(), inner=linear()),
        88 + 64, 2 * 88 + 64,
    ),
    # a square table multiplied without the transpose is no decoder
    "a square table without the transpose": (
        lambda: FunctionModel(lambda m, ids: m.e(ids) @ m.e.weight, e=table(V, V)), V * V, 2 * V * V,
    ),
    "a square table, decoded": (lambda: FunctionModel(lambda m, ids: m.e(ids) @ m.e.weight.t(), e=table(V, V)), V * V, V * V),
    # look-up, a product of the middle, decoder
    "a product in the middle to hide a second use": (
        lambda: FunctionModel(tied_around(lambda m, x: F.linear(x, m.e.weight).relu()), e=table(V, V)), V * V, 2 * V * V,
    ),
    # projection up and, transposed, down: twice; the table is the pair
    "factored embedding, projection used both ways": (
        lambda: FunctionModel(lambda m, ids: F.linear(F.linear(m.e(ids), m.up) @ m.up, m.e.weight), e=table(V, 4), up=matrix(D, 4)),
        44 + 32, 44 + 2 * 32,
    ),
    # the last product is the projection's, not the table's
    "a decoder followed by one more matrix": (
        lambda: FunctionModel(lambda m, ids: m.out(F.linear(m.e(ids), m.e.weight)), e=table(), out=nn.Linear(V, V, bias=False)),
        88 + 121, 2 * 88 + 121,
    ),
    # element-wise operators after the decoder change nothing
    "tied, with a bias, a scale and a cap after it": (
        lambda: FunctionModel(lambda m, ids: 30 * torch.tanh((F.linear(m.e(ids), m.e.weight) + m.bias) * m.scale / 30), e=table(), bias=nn.Parameter(torch.zeros(V)), scale=nn.Parameter(torch.ones(()))),
        88 + V + 1, 88 + V + 1,
    ),
    "tied through a cast, in chunks of the vocabulary": (
        lambda: FunctionModel(lambda m, ids: (lambda x: torch.cat([x @ rows.t() for rows in m.e.weight.double().split(3)], -1))(m.e(ids).double()), e=table()),
        88, 88,
    ),
    "tied, without the last logits": (
        lambda: FunctionModel(lambda m, ids: F.linear(m.e(ids), m.e.weight)[..., :9], e=table()), 88, 88,
    ),
    # the looked-up indices are computed by the model, so they are no token ids
    "a codebook of the middle": (
        lambda: FunctionModel(lambda m, ids: m.head(F.embedding(F.linear(x := m.i(ids), m.e.weight).argmax(-1), m.e.weight) + x), i=table(), e=table(), head=linear_to_v()),
        3 * 88, 4 * 88,
    ),
    # the logits select the token that is looked up next
    "logits fed back as token ids": (
        lambda: FunctionModel(lambda m, ids: F.linear(m.inner(m.e(F.linear(m.e(ids), m.e.weight).argmax(-1))), m.e.weight), e=table(), inner=linear()),
        88 + 64, 3 * 88 + 64,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_only_an_embedding_and_its_decoder_are_a_pair(name: str) -> None:
    torch.manual_seed(0)
    make, unique, counted = CASES[name]
    report = count_parameters(make())
    assert (report.unique, report.counted) == (unique, counted), report.notes
    assert report.proven, report.notes
