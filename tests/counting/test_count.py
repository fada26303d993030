"""The count of every architecture against one computed by hand. d = 8, vocabulary 11: embedding and head have 88 weights each."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from architectures import (
    GPT2,
    Attention,
    D,
    Experts,
    FunctionBody,
    FunctionModel,
    FusedAttention,
    LlamaLayer,
    Model,
    P,
    SharedBias,
    SlowMamba,
    V,
    WithBody,
    linear,
    linear_to_v,
    matrix,
)
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from smalltale.counting.count import count_parameters

ENDS = 2 * V * D  # 176: embedding and head, untied
EMBEDDING = V * D  # 88


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)


CASES: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    # name: (model, unique, counted)
    # 88 + 16·8 positions + 2·872 + norm 16
    "gpt2 tied": (lambda: GPT2(2, tied=True), 88 + 128 + 1744 + 16, 88 + 128 + 1744 + 16),
    "gpt2 untied": (lambda: GPT2(2, tied=False), 176 + 128 + 1744 + 16, 176 + 128 + 1744 + 16),
    # layer: 16 norms + 4·64 + 3·128 = 656
    "llama untied": (lambda: WithBody(LlamaLayer()), ENDS + 656, ENDS + 656),
    "llama tied": (lambda: WithBody(LlamaLayer(), tied=True), 88 + 656, 88 + 656),
    # 2·64 + 2·32
    "mqa by repeating activations": (lambda: WithBody(Attention(1)), ENDS + 192, ENDS + 192),
    "mqa by expanding activations": (lambda: WithBody(Attention(1, "expand")), ENDS + 192, ENDS + 192),
    "gqa by repeating weights": (lambda: WithBody(Attention(1, "weights")), ENDS + 192, ENDS + 192),
    # one layer of 656, three times
    "albert": (lambda: WithBody(LlamaLayer(), times=3), ENDS + 656, ENDS + 3 * 656),
    # embedding and decoder, a pair, and two more products with the table: 3·88
    "tied plus third use": (
        lambda: FunctionBody(lambda m, x: x + F.linear(x, m.embedding.weight).softmax(-1) @ m.embedding.weight, tied=True),
        88,
        3 * 88,
    ),
    # table 11·4; projection 4·8 up and back down: used twice
    "factored embedding with a projection used both ways": (
        lambda: FunctionModel(
            lambda m, ids: F.linear(F.linear(m.table(ids), m.up) @ m.up, m.table.weight),
            table=nn.Embedding(V, 4),
            up=matrix(D, 4),
        ),
        44 + 32,
        44 + 2 * 32,
    ),
    # the product of both is looked up and decodes: one pair for both factors
    "factored embedding merged": (
        lambda: FunctionModel(
            lambda m, ids: F.linear(F.embedding(ids, m.table @ m.up), m.table @ m.up), table=matrix(V, 4), up=matrix(4, D)
        ),
        44 + 32,
        44 + 32,
    ),
    "fused qkv, one product": (lambda: WithBody(FusedAttention("one product")), ENDS + 256, ENDS + 256),
    "fused qkv sliced": (lambda: WithBody(FusedAttention("slices")), ENDS + 256, ENDS + 256),
    "fused qkv chunked": (lambda: WithBody(FusedAttention("chunk")), ENDS + 256, ENDS + 256),
    "fused qkv sliced after a cast": (lambda: WithBody(FusedAttention("cast")), ENDS + 256, ENDS + 256),
    # one matrix gives queries and keys: 2·64
    "W_q = W_k": (lambda: FunctionBody(lambda m, x: x + (x @ m.w) * (x @ m.w).softmax(-1), w=matrix(D, D)), ENDS + 64, ENDS + 128),
    # t() is computed once, and used three times
    "w.t() reuse": (lambda: FunctionBody(w_t_three_times, w=matrix(D, D)), ENDS + 64, ENDS + 3 * 64),
    # the cast is computed once, and used twice
    "a cast used twice": (
        lambda: FunctionBody(lambda m, x: (x @ (w := m.w.double().float())) @ w, w=matrix(D, D)),
        ENDS + 64,
        ENDS + 128,
    ),
    # the head in chunks of 4 positions: other positions, no reuse
    "head in chunks of positions": (
        lambda: FunctionModel(
            lambda m, ids: torch.cat([m.head(chunk) for chunk in m.embedding(ids).split(4, 1)], 1),
            embedding=nn.Embedding(V, D),
            head=nn.Linear(D, V, bias=False),
        ),
        ENDS,
        ENDS,
    ),
    "head in chunks of the vocabulary": (
        lambda: FunctionModel(
            lambda m, ids: (lambda x: torch.cat([x @ rows.t() for rows in m.e.weight.split(3)], -1))(m.e(ids)),
            e=nn.Embedding(V, D),
        ),
        88,
        88,
    ),
    # base 64 twice; two adapters of 2·8·2
    "shared base with LoRA, not merged": (
        lambda: FunctionBody(lora_apart, w=matrix(D, D), a=matrix(2, D, 2), b=matrix(2, 2, D)),
        ENDS + 64 + 64,
        ENDS + 2 * 64 + 64,
    ),
    "shared base with LoRA, merged": (
        lambda: FunctionBody(lora_merged, w=matrix(D, D), a=matrix(2, D, 2), b=matrix(2, 2, D)),
        ENDS + 64 + 64,
        ENDS + 2 * 64 + 64,
    ),
    # 3·(64 + 64 + 8 + 8) and 4·144
    "gru over time": (lambda: FunctionBody(lambda m, x: m.rnn(x)[0], rnn=nn.GRU(D, D, batch_first=True)), ENDS + 432, ENDS + 432),
    "lstm over time": (lambda: FunctionBody(lambda m, x: m.rnn(x)[0], rnn=nn.LSTM(D, D, batch_first=True)), ENDS + 576, ENDS + 576),
    "gru cell in a loop over time": (lambda: FunctionBody(cell_over_time, cell=nn.GRUCell(D, D)), ENDS + 432, ENDS + 432),
    "rnn of two layers": (
        lambda: FunctionBody(lambda m, x: m.rnn(x)[0], rnn=nn.RNN(D, D, num_layers=2, batch_first=True)),
        ENDS + 2 * 144,
        ENDS + 2 * 144,
    ),
    # v 64 and g 8
    "weight norm": (lambda: WithBody(parametrizations.weight_norm(linear())), ENDS + 72, ENDS + 72),
    "weight norm, fused and sliced": (
        lambda: FunctionBody(weight_norm_sliced, inner=parametrizations.weight_norm(nn.Linear(D, 3 * D, bias=False))),
        ENDS + 192 + 24,
        ENDS + 192 + 24,
    ),
    # its two vectors are buffers
    "spectral norm": (lambda: WithBody(parametrizations.spectral_norm(linear())), ENDS + 64, ENDS + 64),
    "orthogonal parametrization": (lambda: WithBody(parametrizations.orthogonal(linear())), ENDS + 64, ENDS + 64),
    "frozen weights": (lambda: WithBody(frozen(linear())), ENDS, ENDS),
    "a frozen layer reused": (lambda: WithBody(frozen(linear()), times=5), ENDS, ENDS),
    "checkpointing, not reentrant": (
        lambda: FunctionBody(lambda m, x: checkpoint(m.inner, x, use_reentrant=False), inner=linear()),
        ENDS + 64,
        ENDS + 64,
    ),
    "checkpointing, reentrant": (
        lambda: FunctionBody(lambda m, x: checkpoint(m.inner, x, use_reentrant=True), inner=linear()),
        ENDS + 64,
        ENDS + 64,
    ),
    # three layers of 192; the table of 4·2 in each of them: 3·8
    "t5's shared bias": (lambda: SharedBias(3), ENDS + 3 * 192 + 8, ENDS + 3 * 192 + 3 * 8),
    # router 32, experts 4·2·128
    "experts, mixtral-like": (lambda: WithBody(Experts("looped")), ENDS + 32 + 1024, ENDS + 32 + 1024),
    "experts, gathered": (lambda: WithBody(Experts("gathered")), ENDS + 32 + 1024, ENDS + 32 + 1024),
    "a compiled module": (lambda: WithBody(torch.compile(linear())), ENDS + 64, ENDS + 64),  # type: ignore[arg-type]
    # in 3·64 + 24, out 64 + 8, linears 2·128 + 16 + 8, norms 32
    "nn.TransformerEncoder": (lambda: FunctionBody(lambda m, x: m.inner(x), inner=encoder()), ENDS + 600, ENDS + 600),
    "a second name by .data": (lambda: second_name("data"), ENDS + 64, ENDS + 128),
    "a second name by .detach()": (lambda: second_name("detach"), ENDS + 64, ENDS + 128),
    "mamba": (lambda: WithBody(SlowMamba()), ENDS + 368, ENDS + 368),
    # mu enters x·mu and (1 − mu)·before: two uses of 8; three products of 64
    "rwkv-like elementwise gates": (
        lambda: FunctionBody(rwkv, mu=nn.Parameter(torch.rand(D)), r=linear(), k=linear(), v=linear()),
        ENDS + 8 + 192,
        ENDS + 2 * 8 + 192,
    ),
    "a gate by lerp": (
        lambda: FunctionBody(lambda m, x: torch.lerp(F.pad(x, (0, 0, 1, -1)), x, m.mu), mu=nn.Parameter(torch.rand(D))),
        ENDS + 8,
        ENDS + 8,
    ),
    "functional_call": (
        lambda: FunctionBody(lambda m, x: functional_call(m.inner, dict(m.inner.named_parameters()), (x,)), inner=linear()),
        ENDS + 64,
        ENDS + 64,
    ),
    # two layers through one inner module, their weights stacked
    "functional_call over stacked weights": (lambda: FunctionBody(functional_layers, w=matrix(2, D, D), inner=[linear()]), ENDS + 128, ENDS + 128),
    # token values of one more table in each of two layers
    "value embeddings": (
        lambda: FunctionModel(value_embeddings, e=nn.Embedding(V, D), values=nn.Embedding(2 * V, D), head=nn.Linear(D, V, bias=False)),
        88 + 176 + 88,
        88 + 176 + 88,
    ),
    "one value embedding for two layers": (
        lambda: FunctionModel(shared_values, e=nn.Embedding(V, D), values=nn.Embedding(V, D), head=nn.Linear(D, V, bias=False)),
        88 + 88 + 88,
        88 + 2 * 88 + 88,
    ),
    # two hashes look up one table: 5·8 twice
    "a hash embedding": (
        lambda: FunctionModel(lambda m, ids: m.head(m.table(ids % 5) + m.table(ids * 3 % 5)), table=nn.Embedding(5, D), head=linear_to_v()),
        40 + 88,
        80 + 88,
    ),
    # the second head is for training only
    "a multi-token head used in training only": (
        lambda: FunctionModel(lambda m, ids: second_head(m, ids), e=nn.Embedding(V, D), head=linear_to_v(), second=linear_to_v()),
        3 * 88,
        3 * 88,
    ),
    # 8·8·3 + 8
    "a causal convolution": (
        lambda: FunctionBody(lambda m, x: m.conv(F.pad(x.transpose(1, 2), (2, 0))).transpose(1, 2), conv=nn.Conv1d(D, D, 3)),
        ENDS + 200,
        ENDS + 200,
    ),
    "positions beyond the inputs": (
        lambda: FunctionModel(lambda m, ids: m.head(m.e(ids) + m.p[: ids.shape[1]]), e=nn.Embedding(V, D), p=matrix(99, D), head=linear_to_v()),
        ENDS + 99 * D,
        ENDS + 99 * D,
    ),
    "learned positions added in each of two layers": (
        lambda: FunctionModel(lambda m, ids: m.head((m.e(ids) + m.p[: ids.shape[1]]).tanh() + m.p[: ids.shape[1]]), e=nn.Embedding(V, D), p=matrix(P, D), head=linear_to_v()),
        ENDS + P * D,
        ENDS + 2 * P * D,
    ),
    "a learned first token": (
        lambda: FunctionBody(lambda m, x: torch.cat([m.first.expand(x.shape[0], 1, D), x], 1)[:, 1:] + 0, first=matrix(1, 1, D)),
        ENDS + 8,
        ENDS + 8,
    ),
    "a matrix and its own transpose": (lambda: FunctionBody(lambda m, x: x @ m.w @ m.w.t(), w=matrix(D, D)), ENDS + 64, ENDS + 128),
    # the upper half is used twice
    "half of a matrix used again": (
        lambda: FunctionBody(lambda m, x: x @ m.w + F.pad(x @ m.w[:, :4], (0, 4)), w=matrix(D, D)),
        ENDS + 64,
        ENDS + 64 + 32,
    ),
    "a grouped weight by cat": (
        lambda: FunctionBody(lambda m, x: (x @ torch.cat([m.a, m.b], 1)) @ torch.cat([m.a, m.c], 1), a=matrix(D, 4), b=matrix(D, 4), c=matrix(D, 4)),
        ENDS + 96,
        ENDS + 2 * 32 + 64,
    ),
    "a reversed weight is the same weight": (
        lambda: FunctionBody(lambda m, x: x @ m.w @ m.w.flip(0), w=matrix(D, D)),
        ENDS + 64,
        ENDS + 128,
    ),
    "weights in a plain list": (lambda: FunctionBody(lambda m, x: x @ m.ws[0] @ m.ws[1], ws=[matrix(D, D).data.requires_grad_(), matrix(D, D).data.requires_grad_()]), ENDS + 128, ENDS + 128),
    "only embedding and head": (Model, ENDS, ENDS),
}  # fmt: skip


def w_t_three_times(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    transposed = m.w.t()
    return ((x @ transposed).relu() @ transposed).relu() @ transposed


def lora_apart(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    for layer in range(2):
        x = x @ m.w + x @ m.a[layer] @ m.b[layer]
    return x


def lora_merged(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    for layer in range(2):
        x = x @ (m.w + m.a[layer] @ m.b[layer])
    return x


def cell_over_time(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    state, out = torch.zeros(1, D), []
    for t in range(x.shape[1]):
        state = m.cell(x[:, t], state)
        out.append(state)
    return torch.stack(out, 1)


def weight_norm_sliced(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    q, k, v = m.inner.weight.chunk(3)
    return x @ q.t() + x @ k.t() + x @ v.t()


def encoder() -> nn.Module:
    return nn.TransformerEncoder(
        nn.TransformerEncoderLayer(D, 2, 16, batch_first=True), 1, enable_nested_tensor=False
    )


def second_name(how: str) -> nn.Module:
    """A second, frozen name of a trained weight: its elements are trained, and used twice."""
    first, second = linear(), linear()
    if how == "data":
        second.weight.data = first.weight.data
    else:
        second.weight = nn.Parameter(first.weight.detach(), requires_grad=False)
    return FunctionBody(lambda m, x: m.second(m.first(x).relu()), first=first, second=second)


def rwkv(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    before = F.pad(x, (0, 0, 1, -1))
    mixed = x * m.mu + before * (1 - m.mu)
    return m.r(mixed).sigmoid() * (m.k(mixed).exp() * m.v(mixed))


def functional_layers(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    for layer in range(2):
        x = functional_call(m.inner[0], {"weight": m.w[layer]}, (x,))
    return x


def value_embeddings(m: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    x = m.e(ids)
    for layer in range(2):
        x = x + F.embedding(ids, m.values.weight[layer * V : (layer + 1) * V])
    return m.head(x)


def shared_values(m: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    return m.head((m.e(ids) + m.values(ids)).tanh() + m.values(ids))


def second_head(m: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    x = m.e(ids)
    return m.head(x) + m.second(x) if m.training else m.head(x)


@pytest.mark.parametrize("name", CASES)
def test_count_of_each_architecture_equals_the_one_computed_by_hand(name: str) -> None:
    torch.manual_seed(0)
    make, unique, counted = CASES[name]
    report = count_parameters(make())
    assert (report.unique, report.counted) == (unique, counted), report.notes
    assert report.proven, report.notes


def test_cases_cover_at_least_forty_architectures() -> None:
    assert len(CASES) >= 40
