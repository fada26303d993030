"""Reuse hidden on purpose: either every use is counted, or the report says that it is not proven. d = 8, vocabulary 11.

Every model here uses a trained 8 × 8 matrix `w` three times; the right count is 176 for embedding and head, and 3 · 64.
"""

from __future__ import annotations

import copy
import ctypes
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from architectures import D, FunctionBody, FunctionModel, V, linear, linear_to_v, matrix
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import _disable_current_modes

from smalltale.counting.count import count_parameters

ENDS = 2 * V * D
THREE_USES = ENDS + 3 * 64


def thrice(x: Tensor, w: Tensor, times: int = 3) -> Tensor:
    for _ in range(times):
        x = (x @ w).relu()
    return x


def with_buffer(body: Callable[[Any, Tensor], Tensor]) -> FunctionBody:
    model = FunctionBody(body, w=matrix(D, D))
    model.register_buffer("copy", torch.zeros(D, D))
    return model


def copied_into_a_buffer(m: Any, x: Tensor) -> Tensor:
    m.copy.copy_(m.w)
    return thrice(x @ m.w, m.copy, 2)


def copied_into_another_weight(m: Any, x: Tensor) -> Tensor:
    x = x @ m.w
    m.other.data.copy_(m.w.data)
    return thrice(x, m.other, 2)


def viewed_as_complex(m: Any, x: Tensor) -> Tensor:
    w = torch.view_as_complex(m.w.view(D, D // 2, 2))
    for _ in range(3):
        x = torch.view_as_real(x.to(torch.complex64) @ w).flatten(-2)
    return x


class Thrice(torch.Tensor):
    """A tensor class of which one product runs three."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inner = [arg.inner if isinstance(arg, Thrice) else arg for arg in args]
        if func is torch.ops.aten.mm.default:
            return ((inner[0] @ inner[1]).relu() @ inner[1]).relu() @ inner[1]
        return func(*inner, **(kwargs or {}))


def tensor_class(m: Any, x: Tensor) -> Tensor:
    w = torch.Tensor._make_wrapper_subclass(Thrice, m.w.shape, dtype=m.w.dtype)
    w.inner = m.w.detach()
    return (x[0] @ w)[None]


class OwnGradient(torch.autograd.Function):
    """Three products in one call."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        return thrice(x, w)


def layer_with_hook() -> nn.Linear:
    inner = linear()
    inner.register_forward_hook(lambda m, _, out: F.linear(F.linear(out, m.weight).relu(), m.weight))
    return inner


def stack_depths(x: Tensor, first: nn.Module) -> Tensor:
    return torch.cat([x, first(x), first(x).relu() * 2])


def multiply_depths(x: Tensor) -> Tensor:
    return torch.stack(x.chunk(3)).prod(0)


TRACED: dict[str, Callable[[], nn.Module]] = {
    "copied into a buffer": lambda: with_buffer(copied_into_a_buffer),
    "copied into a frozen weight": lambda: FunctionBody(
        copied_into_another_weight, w=matrix(D, D), other=matrix(D, D).requires_grad_(False)
    ),
    "viewed as complex numbers": lambda: FunctionBody(viewed_as_complex, w=matrix(D, D)),
    "viewed as other bits and back": lambda: FunctionBody(
        lambda m, x: thrice(x, m.w.view(torch.int16).view(torch.float32)), w=matrix(D, D)
    ),
    "a tensor class of its own": lambda: FunctionBody(tensor_class, w=matrix(D, D)),
    "an autograd function of its own": lambda: FunctionBody(lambda m, x: OwnGradient.apply(x, m.w), w=matrix(D, D)),
    "a compiled loop": lambda: FunctionBody(lambda m, x: m.f[0](x, m.w), w=matrix(D, D), f=[torch.compile(thrice)]),
    "a hook": lambda: FunctionBody(lambda m, x: m.inner(x), inner=layer_with_hook()),
    "depths in an einsum": lambda: FunctionBody(
        lambda m, x: multiply_depths(torch.einsum("btd,de->bte", stack_depths(x, m.a), m.w)), w=matrix(D, D), a=linear().requires_grad_(False)
    ),
    "depths in a batched product over an expanded matrix": lambda: FunctionBody(
        lambda m, x: multiply_depths(torch.bmm(stack_depths(x, m.a), m.w.expand(3 * len(x), D, D))), w=matrix(D, D), a=linear().requires_grad_(False)
    ),
    "depths under vmap": lambda: FunctionBody(
        lambda m, x: multiply_depths(torch.func.vmap(lambda t: t @ m.w)(stack_depths(x, m.a))), w=matrix(D, D), a=linear().requires_grad_(False)
    ),
    "a loop under vmap over layers": lambda: FunctionBody(
        lambda m, x: torch.func.vmap(lambda w: thrice(x, w))(m.w[None])[0], w=matrix(D, D)
    ),
    "concatenated and cut out again": lambda: FunctionBody(
        lambda m, x: thrice(x, torch.cat([m.w, m.other])[:D]), w=matrix(D, D), other=matrix(D, D).requires_grad_(False)
    ),
    "chosen from a stack": lambda: FunctionBody(
        lambda m, x: thrice(x, torch.stack([m.other, m.w])[torch.tensor(1)]), w=matrix(D, D), other=matrix(D, D).requires_grad_(False)
    ),
    "copied by index": lambda: FunctionBody(
        lambda m, x: x @ (w := m.w[None].index_select(0, torch.tensor([0, 0, 0])))[0] @ w[1] @ w[2], w=matrix(D, D)
    ),
    "written with out=": lambda: FunctionBody(
        lambda m, x: thrice(x, torch.mul(m.w, 1.0, out=torch.empty(D, D))), w=matrix(D, D)
    ),
    "multiplied by the list": lambda: FunctionBody(
        lambda m, x: x @ m.w @ (ws := torch._foreach_mul([m.w, m.w], 1.0))[0] @ ws[1], w=matrix(D, D)
    ),
    "keys and values of a memory": lambda: FunctionBody(
        lambda m, x: F.scaled_dot_product_attention(x @ m.w, m.w[None], m.w[None]), w=matrix(D, D)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TRACED)
def test_every_use_is_counted(name: str) -> None:
    torch.manual_seed(0)
    report = count_parameters(TRACED[name]())
    assert (report.unique, report.counted) == (ENDS + 64, THREE_USES), report.notes
    assert report.proven, report.notes


def matrix_as_data(
    turn: Callable[[Any, Tensor], Tensor], use: Callable[[Tensor, Tensor], Tensor]
) -> FunctionBody:
    """`turn` makes data of the matrix by mixing in the input without effect; the data is then used three times."""

    def body(m: Any, x: Tensor) -> Tensor:
        w = turn(m, x)
        for _ in range(3):
            x = use(x, w).relu()
        return x

    return FunctionBody(body, w=matrix(D, D))


def multiply(x: Tensor, w: Tensor) -> Tensor:
    return x @ w


def add_zero(m: Any, x: Tensor) -> Tensor:
    return m.w + x.sum() * 0


def join_and_cut(m: Any, x: Tensor) -> Tensor:
    return torch.cat([x.flatten(), m.w.flatten()])[-64:].view(D, D)


def write_into_data(m: Any, x: Tensor) -> Tensor:
    filled = x.new_zeros(9, D) + x[0, :1]
    filled[1:] = m.w
    return filled[1:]


def multiply_by_identity(m: Any, x: Tensor) -> Tensor:
    return (torch.eye(D) + 0 * x[0, 0, :1]) @ m.w


TURNED_INTO_DATA: dict[str, Callable[[], nn.Module]] = {
    "plus nothing": lambda: matrix_as_data(add_zero, multiply),
    "plus nothing, times the identity": lambda: matrix_as_data(lambda m, x: add_zero(m, x) @ torch.eye(D), multiply),
    "plus nothing, then normed": lambda: matrix_as_data(lambda m, x: F.layer_norm(add_zero(m, x), (D,)), multiply),
    "joined to the input and cut off": lambda: matrix_as_data(join_and_cut, multiply),
    "written into a tensor of data": lambda: matrix_as_data(write_into_data, multiply),
    "multiplied by an identity of data": lambda: matrix_as_data(multiply_by_identity, multiply),
    "plus nothing, used element by element": lambda: matrix_as_data(add_zero, lambda x, w: (x[..., None] * w).sum(-2)),
    "plus nothing, used as a convolution": lambda: matrix_as_data(
        add_zero, lambda x, w: F.conv1d(x.transpose(1, 2), w[..., None]).transpose(1, 2)
    ),
    "plus nothing, used as a memory": lambda: matrix_as_data(
        add_zero, lambda x, w: F.scaled_dot_product_attention(x, w[None].expand(len(x), -1, -1), w[None].expand(len(x), -1, -1))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TURNED_INTO_DATA)
def test_products_of_a_weight_turned_into_data_are_counted_as_unproven(name: str) -> None:
    torch.manual_seed(0)
    report = count_parameters(TURNED_INTO_DATA[name]())
    assert report.counted >= THREE_USES, report.notes
    assert not report.proven


def from_memory(m: Any, x: Tensor) -> Tensor:
    w = torch.empty(D, D)
    ctypes.memmove(w.data_ptr(), m.w.data_ptr(), 4 * w.numel())
    return thrice(x @ m.w, w, 2)


def in_a_thread(m: Any, x: Tensor) -> Tensor:
    results: list[Tensor] = []
    worker = threading.Thread(target=lambda: results.append(thrice(x, m.w.detach(), 2)))
    worker.start()
    worker.join()
    return x @ m.w + results[0]


def in_a_thread_in_place(m: Any, x: Tensor) -> Tensor:
    result = x.clone()
    worker = threading.Thread(target=lambda: result.copy_(thrice(x, m.w.detach(), 2)))
    worker.start()
    worker.join()
    return x @ m.w + result


def without_tracer(m: Any, x: Tensor) -> Tensor:
    with _disable_current_modes():
        result = thrice(x, m.w, 2)
    return x @ m.w + result


def without_tracer_in_place(m: Any, x: Tensor) -> Tensor:
    result = torch.zeros_like(x)
    with _disable_current_modes():
        result.copy_(thrice(x, m.w, 2))
    return x @ m.w + result


def saved_for_next_pass(m: Any, x: Tensor) -> Tensor:
    state = m.state[0]
    m.state[0] = (x @ m.w).detach()[:, -1:]
    return x @ m.w + thrice(state, m.w, 2)


def read_as_integers(m: Any, x: Tensor) -> Tensor:
    once = x @ m.w
    numbers = [int((element * 1e6).long()) for element in once.flatten()]
    return once + thrice(torch.tensor(numbers).view_as(once) / 1e6, m.w, 2)


def gated_on_a_token(m: Any, ids: Tensor) -> Tensor:
    return m.head(thrice(m.e(ids), m.w, 3 if int(ids[0, 0]) == 10**6 else 1))


REGISTRY: list[Tensor] = []


@torch.library.custom_op("smalltale_test::hidden", mutates_args=())
def hidden(x: Tensor) -> Tensor:
    return thrice(x, REGISTRY[0], 2)


def with_registered_operator() -> nn.Module:
    REGISTRY[:] = [matrix(D, D)]
    return FunctionBody(lambda m, x: torch.ops.smalltale_test.hidden(x) + x @ m.w, w=REGISTRY[0])


class CopiesWhenEvaluated(FunctionBody):
    """Copies the weight into its buffer whenever its mode is set."""

    def train(self, mode: bool = True) -> CopiesWhenEvaluated:
        self.weight_copy.copy_(self.w.detach())
        return super().train(mode)


def copied_before_the_pass() -> nn.Module:
    model = CopiesWhenEvaluated(lambda m, x: thrice(x @ m.w, m.weight_copy, 2), w=matrix(D, D))
    model.register_buffer("weight_copy", torch.zeros(D, D))
    return model


def copied_in_a_list() -> nn.Module:
    w = matrix(D, D)
    return FunctionBody(lambda m, x: thrice(x @ m.w, m.copies[0], 2), w=w, copies=[w.detach().clone()])


UNTRACED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    # name: (model, part of a note)
    "through memory": (lambda: FunctionBody(from_memory, w=matrix(D, D)), "leaves torch by .data_ptr"),
    "through text": (lambda: FunctionBody(lambda m, x: thrice(x @ m.w, torch.tensor(eval(repr(m.w.tolist()))), 2), w=matrix(D, D)), ".tolist"),
    "through a deep copy": (lambda: FunctionBody(lambda m, x: thrice(x @ m.w, copy.deepcopy(m.w.detach()), 2), w=matrix(D, D)), "__deepcopy__"),
    "in a thread": (lambda: FunctionBody(in_a_thread, w=matrix(D, D)), "has an untraced source"),
    "in a thread, in place": (lambda: FunctionBody(in_a_thread_in_place, w=matrix(D, D)), "an untraced source has written it"),
    "with the tracer switched off": (lambda: FunctionBody(without_tracer, w=matrix(D, D)), "has an untraced source"),
    "with the tracer switched off, in place": (lambda: FunctionBody(without_tracer_in_place, w=matrix(D, D)), "an untraced source has written it"),
    "saved for the next pass": (lambda: FunctionBody(saved_for_next_pass, w=matrix(D, D), state=[torch.zeros(1, 1, D)]), "state saved by an earlier pass"),
    "read as integers": (lambda: FunctionBody(read_as_integers, w=matrix(D, D)), "branches on a number"),
    "a loop behind one token": (lambda: FunctionModel(gated_on_a_token, e=nn.Embedding(V, D), w=matrix(D, D), head=linear_to_v()), "branches on a number"),
    "in a registered operator": (with_registered_operator, "custom kernel"),
    "a copy from before the pass": (copied_before_the_pass, "holds the same numbers as w"),
    "a copy in a plain list": (copied_in_a_list, "holds the same numbers as w"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNTRACED)
def test_uses_that_cannot_be_traced_are_reported(name: str) -> None:
    torch.manual_seed(0)
    make, expected_note = UNTRACED[name]
    report = count_parameters(make())
    assert not report.proven
    assert any(expected_note in note for note in report.notes), report.notes


def gated(condition: Callable[[Tensor], bool]) -> nn.Module:
    return FunctionBody(lambda m, x: thrice(x, m.w, 3 if condition(x) else 1), w=matrix(D, D))


GATES: dict[str, Callable[[], nn.Module]] = {
    "a batch": lambda: gated(lambda x: x.shape[0] > 1),
    # every length except those that are always measured; the context is 16
    "the lengths between": lambda: gated(lambda x: x.shape[1] not in (1, 2, 8, 16)),
    # no number is read: the loop is as long as a tensor whose size the data decides
    "a size that data decides": lambda: FunctionModel(
        lambda m, ids: m.head(thrice(m.e(ids), m.w, 1 + 2 * (ids[:1, :1] == 10**6).nonzero().shape[0])), e=nn.Embedding(V, D), w=matrix(D, D), head=linear_to_v()
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GATES)
def test_a_conditional_loop_counts_its_most_uses(name: str) -> None:
    torch.manual_seed(0)
    report = count_parameters(GATES[name]())
    assert (report.counted, report.proven) == (THREE_USES, False), report.notes


def test_a_product_per_row_is_no_reuse() -> None:
    report = count_parameters(
        FunctionBody(lambda m, x: torch.cat([row @ m.w for row in x.split(1)]), w=matrix(D, D))
    )
    assert (report.counted, report.proven) == (ENDS + 64, True), report.notes


def test_a_complex_number_counts_as_two() -> None:
    w = nn.Parameter(torch.randn(D, D, dtype=torch.complex64))
    report = count_parameters(FunctionBody(lambda m, x: (x.to(torch.complex64) @ m.w).real, w=w))
    assert (report.unique, report.counted, report.proven) == (ENDS + 2 * 64, ENDS + 2 * 64, True)


def test_a_gain_that_is_also_the_bias_is_used_twice() -> None:
    model = FunctionBody(lambda m, x: F.layer_norm(x, (D,), m.gain, m.gain), gain=nn.Parameter(torch.ones(D)))
    assert count_parameters(model).counted == ENDS + 2 * D


def test_buffers_that_a_pass_writes_are_restored() -> None:
    model = with_buffer(copied_into_a_buffer)
    count_parameters(model)
    assert not model.copy.any()


def test_unregistered_tensors_are_noted() -> None:
    model = FunctionBody(lambda m, x: x @ m.w @ m.fixed[0], w=matrix(D, D), fixed=[torch.randn(D, D)])
    report = count_parameters(model)
    assert (report.counted, report.proven) == (ENDS + 64, True)
    assert any(
        note.startswith("not counted: 64 numbers of tensors that are neither") for note in report.notes
    )


def test_flex_attention_is_traced_inside() -> None:
    from torch.nn.attention.flex_attention import flex_attention

    def body(m: Any, x: Tensor) -> Tensor:
        keys = (x @ m.w)[:, None]
        return flex_attention(keys, keys, (keys[:, 0] @ m.w)[:, None])[:, 0]

    report = count_parameters(FunctionBody(body, w=matrix(D, D)))
    assert (report.counted, report.proven) == (ENDS + 2 * 64, True), report.notes


def test_an_untraceable_operator_over_functions_is_unproven() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        return torch.cond(torch.tensor(True), lambda x: thrice(x, m.w), lambda x: x.clone(), (x,))

    report = count_parameters(FunctionBody(body, w=matrix(D, D)))
    assert not report.proven
    assert any("cond" in note and "cannot be traced" in note for note in report.notes)
