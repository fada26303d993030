"""Several activations of one position in one operator: each different one is a use. d = 8, vocabulary 11."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from architectures import (
    Attention,
    D,
    Experts,
    FunctionBody,
    FunctionModel,
    V,
    WithBody,
    linear,
    linear_to_v,
    matrix,
)
from torch import Tensor, nn
from torch.nn import functional as F

from smalltale.counting.count import count_parameters

ENDS = 2 * V * D  # 176


def two_depths(m: nn.Module, x: Tensor) -> Tensor:
    """A shared matrix over the embedding and over the output of a first layer, in one product."""
    both = m.shared(torch.stack([x, m.first(x).relu()]))
    return both[0] * both[1]


def by_time(m: nn.Module, x: Tensor) -> Tensor:
    """The same, concatenated along the sequence."""
    both = m.shared(torch.cat([x, m.first(x).relu()], 1))
    return both[:, : x.shape[1]] * both[:, x.shape[1] :]


def by_batch(m: nn.Module, x: Tensor) -> Tensor:
    """The same as a batched product with copies of the matrix."""
    both = torch.bmm(torch.cat([x, m.first(x).relu()]), m.shared.weight.repeat(2 * len(x), 1, 1))
    return both[: len(x)] * both[len(x) :]


def by_batch_with_zeros(m: nn.Module, x: Tensor) -> Tensor:
    """Two depths meet the first matrix; zeros meet the second one, which is used once more."""
    depths = torch.cat([x, m.first(x).relu()], 1)
    both = torch.bmm(torch.cat([depths, torch.zeros_like(depths)]), m.w)
    return both[:1, : x.shape[1]] * both[:1, x.shape[1] :] + both[1:, : x.shape[1]] + x @ m.w[1]


def by_elements(m: nn.Module, x: Tensor) -> Tensor:
    """The same without a product: broadcast and sum."""
    both = torch.stack([x, m.first(x).relu()])
    return (both[..., None] * m.shared.weight).sum(-2).prod(0)


def by_convolution(m: nn.Module, x: Tensor) -> Tensor:
    both = m.shared(torch.cat([x, m.first(x).relu()]).transpose(1, 2)).transpose(1, 2)
    return both[: len(x)] * both[len(x) :]


def heads(m: nn.Module, x: Tensor) -> Tensor:
    return m.inner(x.unflatten(-1, (2, 4))).flatten(-2)


def layers_over_two(m: nn.Module, x: Tensor) -> Tensor:
    """The batch is doubled at the start, as if the model ran twice."""
    both = torch.cat([x, m.first(x)])
    for layer in m.layers:
        both = both + layer(both).relu()
    return both[: len(x)] - both[len(x) :]


def ngrams(m: nn.Module, ids: Tensor) -> Tensor:
    return m.head(m.table(torch.stack([ids % 7, (ids * 3 + 1) % 7])).sum(0))


def looked_up_matrix(m: nn.Module, x: Tensor, times: int = 3) -> Tensor:
    """A matrix looked up as a row of a table, so that it is data, then used several times."""
    w = m.table(torch.zeros(1, dtype=torch.long) + (x[0, 0, 0] * 0).long()).view(D, D)
    for _ in range(times):
        x = (x @ w).relu()
    return x


CASES: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    # name: (model, unique, counted)
    "two depths stacked": (lambda: FunctionBody(two_depths, shared=linear(), first=linear()), ENDS + 128, ENDS + 2 * 64 + 64),
    "two depths along the sequence": (lambda: FunctionBody(by_time, shared=linear(), first=linear()), ENDS + 128, ENDS + 2 * 64 + 64),
    "two depths, with copies of the matrix": (lambda: FunctionBody(by_batch, shared=linear(), first=linear()), ENDS + 128, ENDS + 2 * 64 + 64),
    "two depths for one matrix, zeros for another": (
        lambda: FunctionBody(by_batch_with_zeros, w=matrix(2, D, D), first=linear()), ENDS + 3 * 64, ENDS + 2 * 64 + 2 * 64 + 64,
    ),
    "two depths, element by element": (lambda: FunctionBody(by_elements, shared=linear(), first=linear()), ENDS + 128, ENDS + 2 * 64 + 64),
    # 8·8·1 + 8, twice
    "two depths through a convolution": (lambda: FunctionBody(by_convolution, shared=nn.Conv1d(D, D, 1), first=linear()), ENDS + 72 + 64, ENDS + 2 * 72 + 64),
    # three layers, twice each
    "the batch doubled inside": (
        lambda: FunctionBody(layers_over_two, first=linear(), layers=nn.ModuleList(linear() for _ in range(3))),
        ENDS + 4 * 64, ENDS + 64 + 2 * 3 * 64,
    ),
    # one 4 × 4 matrix for two heads: head sharing
    "one matrix for all heads": (lambda: FunctionBody(heads, inner=nn.Linear(4, 4, bias=False)), ENDS + 16, ENDS + 2 * 16),
    # two rows of 7·8 per token
    "two look-ups in one": (lambda: FunctionModel(ngrams, table=nn.Embedding(7, D), head=linear_to_v()), 56 + 88, 2 * 56 + 88),
    # the same activation for both: no more than once
    "one activation for two copies": (
        lambda: FunctionBody(lambda m, x: torch.bmm(x.expand(2, -1, -1).contiguous(), m.w.repeat(2, 1, 1)).prod(0), w=matrix(D, D)),
        ENDS + 64, ENDS + 64,
    ),
    "one activation for two groups": (lambda: WithBody(Attention(1, "weights")), ENDS + 192, ENDS + 192),
    "one activation for several experts in a batched product": (
        lambda: FunctionBody(lambda m, x: torch.einsum("btd,edh->beth", x, m.w).prod(1), w=matrix(4, D, D)), ENDS + 256, ENDS + 256,
    ),
    # each expert's inner activation meets only its own matrix
    "dense experts": (
        lambda: FunctionBody(lambda m, x: torch.einsum("eth,ehd->etd", torch.einsum("btd,edh->eth", x, m.up).relu(), m.down).sum(0), up=matrix(4, D, 16), down=matrix(4, 16, D)),
        ENDS + 2 * 512, ENDS + 2 * 512,
    ),
    # four activations meet two matrices, each of them twice
    "two matrices for four activations": (
        lambda: FunctionBody(lambda m, x: torch.bmm(x.view(1, -1, 4, 2).permute(2, 0, 1, 3).reshape(4, -1, 2), m.w.repeat(2, 1, 1)).sum(0).repeat(1, 4)[None], w=matrix(2, 2, 2)),
        ENDS + 8, ENDS + 2 * 8,
    ),
    "experts, gathered": (lambda: WithBody(Experts("gathered")), ENDS + 32 + 1024, ENDS + 32 + 1024),
    # a norm's gain over heads is element by element
    "one gain for all heads": (
        lambda: FunctionBody(lambda m, x: (F.rms_norm(x.unflatten(-1, (2, 4)), (4,)) * m.gain).flatten(-2), gain=nn.Parameter(torch.ones(4))),
        ENDS + 4, ENDS + 4,
    ),
    # three learned tokens before the text are further positions
    "learned first tokens through every layer": (
        lambda: FunctionBody(lambda m, x: m.inner(torch.cat([m.first, x], 1))[:, 3:], first=matrix(1, 3, D), inner=linear()),
        ENDS + 24 + 64, ENDS + 24 + 64,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_different_activation_of_one_position_is_a_use(name: str) -> None:
    torch.manual_seed(0)
    make, unique, counted = CASES[name]
    report = count_parameters(make())
    assert (report.unique, report.counted) == (unique, counted), report.notes
    assert report.proven, report.notes


def test_depths_stacked_only_in_longer_inputs_are_counted_as_unproven() -> None:
    def gated(m: nn.Module, x: Tensor) -> Tensor:
        return two_depths(m, x) if x.shape[1] > 1 else m.shared(x) * m.first(x)

    report = count_parameters(FunctionBody(gated, shared=linear(), first=linear()))
    assert (report.counted, report.proven) == (ENDS + 2 * 64 + 64, False)
    assert any("different activations, 2 for each position" in note for note in report.notes)


def test_depths_stacked_only_at_the_context_are_counted_as_unproven() -> None:
    def gated(m: nn.Module, x: Tensor) -> Tensor:
        return two_depths(m, x) if x.shape[1] > 8 else m.shared(x) * m.first(x)

    report = count_parameters(FunctionBody(gated, shared=linear(), first=linear()))
    assert (report.counted, report.proven) == (ENDS + 2 * 64 + 64, False)


def test_products_of_a_looked_up_matrix_are_counted_as_unproven() -> None:
    report = count_parameters(FunctionBody(looked_up_matrix, table=nn.Embedding(1, D * D)))
    assert (report.counted, report.proven) == (ENDS + 3 * 64, False)
    assert any("turned into data" in note for note in report.notes)


def test_learned_tokens_after_the_text_are_counted_as_unproven_uses() -> None:
    def registers(m: nn.Module, x: Tensor) -> Tensor:
        x = torch.cat([x, x.mean(1, keepdim=True) * m.last], 1)
        return m.inner(x)[:, :-1] + m.inner(x)[:, -1:] * 0

    report = count_parameters(FunctionBody(registers, last=matrix(1, 1, D), inner=linear()))
    assert report.counted >= ENDS + 8 + 2 * 64
    assert not report.proven


def test_depths_on_the_meta_device_are_counted_as_unproven() -> None:
    model = FunctionBody(two_depths, shared=linear(), first=linear()).to("meta")
    report = count_parameters(model)
    assert (report.counted, report.proven) == (ENDS + 2 * 64 + 64, False)


def test_counting_does_not_change_a_layer_with_two_names() -> None:
    layer = linear()
    model = FunctionBody(lambda m, x: m.second(m.first(x)), first=layer, second=layer)
    weight = layer.weight.clone()
    assert count_parameters(model).counted == ENDS + 2 * 64
    assert torch.equal(layer.weight, weight)
