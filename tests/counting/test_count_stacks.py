"""One operator, several activations of one position: each is a use, unless they are the same one. d = 8, vocabulary 11."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from architectures import Attention, Calls, D, Experts, V, Whole, WithBody, linear, linear_to_v, matrix
from torch import Tensor, nn
from torch.nn import functional as F

from smalltale.counting.count import count_parameters

ENDS = 2 * V * D  # 176


def two_depths(m: nn.Module, x: Tensor) -> Tensor:
    """A shared matrix over the embedding and what a first layer made of it, in one product."""
    both = m.shared(torch.stack([x, m.first(x).relu()]))
    return both[0] * both[1]


def by_time(m: nn.Module, x: Tensor) -> Tensor:
    """The same, laid along the sequence."""
    both = m.shared(torch.cat([x, m.first(x).relu()], 1))
    return both[:, : x.shape[1]] * both[:, x.shape[1] :]


def by_batch(m: nn.Module, x: Tensor) -> Tensor:
    """The same as a batched product, the matrix copied out for each."""
    both = torch.bmm(torch.cat([x, m.first(x).relu()]), m.shared.weight.repeat(2 * len(x), 1, 1))
    return both[: len(x)] * both[len(x) :]


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
    """The batch doubled on entering, as if the model were run twice."""
    both = torch.cat([x, m.first(x)])
    for layer in m.layers:
        both = both + layer(both).relu()
    return both[: len(x)] - both[len(x) :]


def ngrams(m: nn.Module, ids: Tensor) -> Tensor:
    return m.head(m.table(torch.stack([ids % 7, (ids * 3 + 1) % 7])).sum(0))


def looked_up_matrix(m: nn.Module, x: Tensor, times: int = 3) -> Tensor:
    """A whole matrix read as a row of a table, so that it is data, then used again and again."""
    w = m.table(torch.zeros(1, dtype=torch.long) + (x[0, 0, 0] * 0).long()).view(D, D)
    for _ in range(times):
        x = (x @ w).relu()
    return x


CASES: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    # name: (model, unique, counted)
    "two depths stacked": (lambda: Calls(two_depths, shared=linear(), first=linear()), ENDS + 128, ENDS + 2 * 64 + 64),
    "two depths along the sequence": (lambda: Calls(by_time, shared=linear(), first=linear()), ENDS + 128, ENDS + 2 * 64 + 64),
    "two depths, the matrix copied out": (lambda: Calls(by_batch, shared=linear(), first=linear()), ENDS + 128, ENDS + 2 * 64 + 64),
    "two depths, element by element": (lambda: Calls(by_elements, shared=linear(), first=linear()), ENDS + 128, ENDS + 2 * 64 + 64),
    # 8·8·1 + 8, twice
    "two depths through a convolution": (lambda: Calls(by_convolution, shared=nn.Conv1d(D, D, 1), first=linear()), ENDS + 72 + 64, ENDS + 2 * 72 + 64),
    # three layers, twice each
    "the batch doubled inside": (
        lambda: Calls(layers_over_two, first=linear(), layers=nn.ModuleList(linear() for _ in range(3))),
        ENDS + 4 * 64, ENDS + 64 + 2 * 3 * 64,
    ),
    # one 4 × 4 matrix for two heads: head sharing
    "one matrix for all heads": (lambda: Calls(heads, inner=nn.Linear(4, 4, bias=False)), ENDS + 16, ENDS + 2 * 16),
    # two rows of 7·8 a token
    "two look-ups in one": (lambda: Whole(ngrams, table=nn.Embedding(7, D), head=linear_to_v()), 56 + 88, 2 * 56 + 88),
    # the same activation for both: no more than once
    "one activation for two copies": (
        lambda: Calls(lambda m, x: torch.bmm(x.expand(2, -1, -1).contiguous(), m.w.repeat(2, 1, 1)).prod(0), w=matrix(D, D)),
        ENDS + 64, ENDS + 64,
    ),
    "one activation for two groups": (lambda: WithBody(Attention(1, "weights")), ENDS + 192, ENDS + 192),
    "one activation for several experts in a batched product": (
        lambda: Calls(lambda m, x: torch.einsum("btd,edh->beth", x, m.w).prod(1), w=matrix(4, D, D)), ENDS + 256, ENDS + 256,
    ),
    # each expert's own inner activation meets its own matrix
    "experts that all run": (
        lambda: Calls(lambda m, x: torch.einsum("eth,ehd->etd", torch.einsum("btd,edh->eth", x, m.up).relu(), m.down).sum(0), up=matrix(4, D, 16), down=matrix(4, 16, D)),
        ENDS + 2 * 512, ENDS + 2 * 512,
    ),
    # four activations meet two matrices, each of them twice
    "two matrices for four activations": (
        lambda: Calls(lambda m, x: torch.bmm(x.view(1, -1, 4, 2).permute(2, 0, 1, 3).reshape(4, -1, 2), m.w.repeat(2, 1, 1)).sum(0).repeat(1, 4)[None], w=matrix(2, 2, 2)),
        ENDS + 8, ENDS + 2 * 8,
    ),
    "experts, gathered": (lambda: WithBody(Experts("gathered")), ENDS + 32 + 1024, ENDS + 32 + 1024),
    # a norm's gain over heads is element by element
    "one gain for all heads": (
        lambda: Calls(lambda m, x: (F.rms_norm(x.unflatten(-1, (2, 4)), (4,)) * m.gain).flatten(-2), gain=nn.Parameter(torch.ones(4))),
        ENDS + 4, ENDS + 4,
    ),
    # three learned tokens before the text are positions of their own
    "learned first tokens through every layer": (
        lambda: Calls(lambda m, x: m.inner(torch.cat([m.first, x], 1))[:, 3:], first=matrix(1, 3, D), inner=linear()),
        ENDS + 24 + 64, ENDS + 24 + 64,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_activations_of_one_position_are_told_apart(name: str) -> None:
    torch.manual_seed(0)
    make, unique, counted = CASES[name]
    found = count_parameters(make())
    assert (found.unique, found.counted) == (unique, counted), found.notes
    assert found.proven, found.notes


def test_depths_stacked_only_in_longer_inputs_are_seen_and_unproven() -> None:
    def gated(m: nn.Module, x: Tensor) -> Tensor:
        return two_depths(m, x) if x.shape[1] > 1 else m.shared(x) * m.first(x)

    found = count_parameters(Calls(gated, shared=linear(), first=linear()))
    assert (found.counted, found.proven) == (ENDS + 2 * 64 + 64, False)
    assert any("different activations, 2 for each position" in note for note in found.notes)


def test_depths_stacked_only_at_the_context_are_seen_and_unproven() -> None:
    def gated(m: nn.Module, x: Tensor) -> Tensor:
        return two_depths(m, x) if x.shape[1] > 8 else m.shared(x) * m.first(x)

    found = count_parameters(Calls(gated, shared=linear(), first=linear()))
    assert (found.counted, found.proven) == (ENDS + 2 * 64 + 64, False)


def test_a_matrix_that_is_looked_up_counts_its_products_unproven() -> None:
    found = count_parameters(Calls(looked_up_matrix, table=nn.Embedding(1, D * D)))
    assert (found.counted, found.proven) == (ENDS + 3 * 64, False)
    assert any("turned into data" in note for note in found.notes)


def test_learned_last_tokens_are_positions_or_uses_and_unproven() -> None:
    def registers(m: nn.Module, x: Tensor) -> Tensor:
        x = torch.cat([x, x.mean(1, keepdim=True) * m.last], 1)
        return m.inner(x)[:, :-1] + m.inner(x)[:, -1:] * 0

    found = count_parameters(Calls(registers, last=matrix(1, 1, D), inner=linear()))
    assert found.counted >= ENDS + 8 + 2 * 64
    assert not found.proven


def test_shapes_alone_tell_depths_apart_but_are_no_proof() -> None:
    model = Calls(two_depths, shared=linear(), first=linear()).to("meta")
    found = count_parameters(model)
    assert (found.counted, found.proven) == (ENDS + 2 * 64 + 64, False)


def test_counting_leaves_a_layer_that_stands_under_two_names_as_it_was() -> None:
    layer = linear()
    model = Calls(lambda m, x: m.second(m.first(x)), first=layer, second=layer)
    kept = layer.weight.clone()
    assert count_parameters(model).counted == ENDS + 2 * 64
    assert torch.equal(layer.weight, kept)
