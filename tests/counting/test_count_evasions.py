"""Reuse hidden on purpose: either every use is seen, or the answer says that it is no proof. d = 8, vocabulary 11.

Every model here uses a trained 8 × 8 matrix `w` three times; an honest answer is 176 for the ends and 3 · 64.
"""

from __future__ import annotations

import copy
import ctypes
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from architectures import Calls, D, V, Whole, linear, linear_to_v, matrix
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import _disable_current_modes

from smalltale.counting.count import count_parameters

ENDS = 2 * V * D
THREE = ENDS + 3 * 64


def thrice(x: Tensor, w: Tensor, times: int = 3) -> Tensor:
    for _ in range(times):
        x = (x @ w).relu()
    return x


def with_buffer(body: Callable[[Any, Tensor], Tensor], start: Tensor | None = None) -> Calls:
    model = Calls(body, w=matrix(D, D))
    model.register_buffer("copy", torch.zeros(D, D) if start is None else start)
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
    """A tensor class whose one product is three."""

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inner = [each.inner if isinstance(each, Thrice) else each for each in args]
        if func is torch.ops.aten.mm.default:
            return ((inner[0] @ inner[1]).relu() @ inner[1]).relu() @ inner[1]
        return func(*inner, **(kwargs or {}))


def tensor_class(m: Any, x: Tensor) -> Tensor:
    w = torch.Tensor._make_wrapper_subclass(Thrice, m.w.shape, dtype=m.w.dtype)
    w.inner = m.w.detach()
    return (x[0] @ w)[None]


class OwnGradient(torch.autograd.Function):
    """Three products behind one call."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        return thrice(x, w)


def hooked() -> nn.Linear:
    inner = linear()
    inner.register_forward_hook(lambda m, _, out: F.linear(F.linear(out, m.weight).relu(), m.weight))
    return inner


def depths(x: Tensor, first: nn.Module) -> Tensor:
    return torch.cat([x, first(x), first(x).relu() * 2])


def folded(x: Tensor) -> Tensor:
    return torch.stack(x.chunk(3)).prod(0)


SEEN: dict[str, Callable[[], nn.Module]] = {
    "copied into a buffer": lambda: with_buffer(copied_into_a_buffer),
    "copied into a frozen weight": lambda: Calls(
        copied_into_another_weight, w=matrix(D, D), other=matrix(D, D).requires_grad_(False)
    ),
    "viewed as complex numbers": lambda: Calls(viewed_as_complex, w=matrix(D, D)),
    "viewed as other bits and back": lambda: Calls(
        lambda m, x: thrice(x, m.w.view(torch.int16).view(torch.float32)), w=matrix(D, D)
    ),
    "a tensor class of its own": lambda: Calls(tensor_class, w=matrix(D, D)),
    "an autograd function of its own": lambda: Calls(lambda m, x: OwnGradient.apply(x, m.w), w=matrix(D, D)),
    "a compiled loop": lambda: Calls(lambda m, x: m.f[0](x, m.w), w=matrix(D, D), f=[torch.compile(thrice)]),
    "a hook": lambda: Calls(lambda m, x: m.inner(x), inner=hooked()),
    "depths in an einsum": lambda: Calls(
        lambda m, x: folded(torch.einsum("btd,de->bte", depths(x, m.a), m.w)), w=matrix(D, D), a=linear().requires_grad_(False)
    ),
    "depths in a batched product over an expanded matrix": lambda: Calls(
        lambda m, x: folded(torch.bmm(depths(x, m.a), m.w.expand(3 * len(x), D, D))), w=matrix(D, D), a=linear().requires_grad_(False)
    ),
    "depths under vmap": lambda: Calls(
        lambda m, x: folded(torch.func.vmap(lambda t: t @ m.w)(depths(x, m.a))), w=matrix(D, D), a=linear().requires_grad_(False)
    ),
    "a loop under vmap over layers": lambda: Calls(
        lambda m, x: torch.func.vmap(lambda w: thrice(x, w))(m.w[None])[0], w=matrix(D, D)
    ),
    "concatenated and cut out again": lambda: Calls(
        lambda m, x: thrice(x, torch.cat([m.w, m.other])[:D]), w=matrix(D, D), other=matrix(D, D).requires_grad_(False)
    ),
    "chosen from a stack": lambda: Calls(
        lambda m, x: thrice(x, torch.stack([m.other, m.w])[torch.tensor(1)]), w=matrix(D, D), other=matrix(D, D).requires_grad_(False)
    ),
    "copied by index": lambda: Calls(
        lambda m, x: x @ (w := m.w[None].index_select(0, torch.tensor([0, 0, 0])))[0] @ w[1] @ w[2], w=matrix(D, D)
    ),
    "written with out=": lambda: Calls(
        lambda m, x: thrice(x, torch.mul(m.w, 1.0, out=torch.empty(D, D))), w=matrix(D, D)
    ),
    "multiplied by the list": lambda: Calls(
        lambda m, x: x @ m.w @ (ws := torch._foreach_mul([m.w, m.w], 1.0))[0] @ ws[1], w=matrix(D, D)
    ),
    "keys and values of a memory": lambda: Calls(
        lambda m, x: F.scaled_dot_product_attention(x @ m.w, m.w[None], m.w[None]), w=matrix(D, D)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SEEN)
def test_every_use_is_seen(name: str) -> None:
    torch.manual_seed(0)
    found = count_parameters(SEEN[name]())
    assert (found.unique, found.counted) == (ENDS + 64, THREE), found.notes
    assert found.proven, found.notes


def made_data(make: Callable[[Any, Tensor], Tensor], use: Callable[[Tensor, Tensor], Tensor]) -> Calls:
    """The matrix becomes "data" by adding nothing that came from the input, and is then used three times."""

    def body(m: Any, x: Tensor) -> Tensor:
        w = make(m, x)
        for _ in range(3):
            x = use(x, w).relu()
        return x

    return Calls(body, w=matrix(D, D))


def product(x: Tensor, w: Tensor) -> Tensor:
    return x @ w


def plus_nothing(m: Any, x: Tensor) -> Tensor:
    return m.w + x.sum() * 0


def joined(m: Any, x: Tensor) -> Tensor:
    return torch.cat([x.flatten(), m.w.flatten()])[-64:].view(D, D)


def laid_into(m: Any, x: Tensor) -> Tensor:
    filled = x.new_zeros(9, D) + x[0, :1]
    filled[1:] = m.w
    return filled[1:]


def identity_of_data(m: Any, x: Tensor) -> Tensor:
    return (torch.eye(D) + 0 * x[0, 0, :1]) @ m.w


TURNED: dict[str, Callable[[], nn.Module]] = {
    "plus nothing": lambda: made_data(plus_nothing, product),
    "plus nothing, times the identity": lambda: made_data(lambda m, x: plus_nothing(m, x) @ torch.eye(D), product),
    "plus nothing, then normed": lambda: made_data(lambda m, x: F.layer_norm(plus_nothing(m, x), (D,)), product),
    "joined to the input and cut off": lambda: made_data(joined, product),
    "laid into a tensor of data": lambda: made_data(laid_into, product),
    "multiplied by an identity of data": lambda: made_data(identity_of_data, product),
    "plus nothing, used element by element": lambda: made_data(plus_nothing, lambda x, w: (x[..., None] * w).sum(-2)),
    "plus nothing, used as a convolution": lambda: made_data(
        plus_nothing, lambda x, w: F.conv1d(x.transpose(1, 2), w[..., None]).transpose(1, 2)
    ),
    "plus nothing, used as a memory": lambda: made_data(
        plus_nothing, lambda x, w: F.scaled_dot_product_attention(x, w[None].expand(len(x), -1, -1), w[None].expand(len(x), -1, -1))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TURNED)
def test_a_weight_turned_into_data_counts_its_products_unproven(name: str) -> None:
    torch.manual_seed(0)
    found = count_parameters(TURNED[name]())
    assert found.counted >= THREE, found.notes
    assert not found.proven


def from_memory(m: Any, x: Tensor) -> Tensor:
    w = torch.empty(D, D)
    ctypes.memmove(w.data_ptr(), m.w.data_ptr(), 4 * w.numel())
    return thrice(x @ m.w, w, 2)


def in_a_thread(m: Any, x: Tensor) -> Tensor:
    made: list[Tensor] = []
    worker = threading.Thread(target=lambda: made.append(thrice(x, m.w.detach(), 2)))
    worker.start()
    worker.join()
    return x @ m.w + made[0]


def in_a_thread_in_place(m: Any, x: Tensor) -> Tensor:
    made = x.clone()
    worker = threading.Thread(target=lambda: made.copy_(thrice(x, m.w.detach(), 2)))
    worker.start()
    worker.join()
    return x @ m.w + made


def out_of_sight(m: Any, x: Tensor) -> Tensor:
    with _disable_current_modes():
        made = thrice(x, m.w, 2)
    return x @ m.w + made


def out_of_sight_in_place(m: Any, x: Tensor) -> Tensor:
    made = torch.zeros_like(x)
    with _disable_current_modes():
        made.copy_(thrice(x, m.w, 2))
    return x @ m.w + made


def left_for_the_next_pass(m: Any, x: Tensor) -> Tensor:
    state = m.state[0]
    m.state[0] = (x @ m.w).detach()[:, -1:]
    return x @ m.w + thrice(state, m.w, 2)


def read_as_whole_numbers(m: Any, x: Tensor) -> Tensor:
    once = x @ m.w
    numbers = [int((each * 1e6).long()) for each in once.flatten()]
    return once + thrice(torch.tensor(numbers).view_as(once) / 1e6, m.w, 2)


def gated_on_a_token(m: Any, ids: Tensor) -> Tensor:
    return m.head(thrice(m.e(ids), m.w, 3 if int(ids[0, 0]) == 10**6 else 1))


REGISTRY: list[Tensor] = []


@torch.library.custom_op("smalltale_test::hidden", mutates_args=())
def hidden(x: Tensor) -> Tensor:
    return thrice(x, REGISTRY[0], 2)


def in_a_registered_operator() -> nn.Module:
    REGISTRY[:] = [matrix(D, D)]
    return Calls(lambda m, x: torch.ops.smalltale_test.hidden(x) + x @ m.w, w=REGISTRY[0])


class CopiesWhenEvaluated(Calls):
    """Its buffer is the weight's copy whenever it is put into evaluation mode."""

    def train(self, mode: bool = True) -> CopiesWhenEvaluated:
        self.kept.copy_(self.w.detach())
        return super().train(mode)


def copied_outside_the_pass() -> nn.Module:
    model = CopiesWhenEvaluated(lambda m, x: thrice(x @ m.w, m.kept, 2), w=matrix(D, D))
    model.register_buffer("kept", torch.zeros(D, D))
    return model


def copied_in_a_list() -> nn.Module:
    w = matrix(D, D)
    return Calls(lambda m, x: thrice(x @ m.w, m.copies[0], 2), w=w, copies=[w.detach().clone()])


UNSEEN: dict[str, tuple[Callable[[], nn.Module], str]] = {
    # name: (model, what the answer says)
    "through memory": (lambda: Calls(from_memory, w=matrix(D, D)), "leaves torch by .data_ptr"),
    "through text": (lambda: Calls(lambda m, x: thrice(x @ m.w, torch.tensor(eval(repr(m.w.tolist()))), 2), w=matrix(D, D)), ".tolist"),
    "through a deep copy": (lambda: Calls(lambda m, x: thrice(x @ m.w, copy.deepcopy(m.w.detach()), 2), w=matrix(D, D)), "__deepcopy__"),
    "in a thread": (lambda: Calls(in_a_thread, w=matrix(D, D)), "made by no operator that can be seen"),
    "in a thread, in place": (lambda: Calls(in_a_thread_in_place, w=matrix(D, D)), "written by something that cannot be seen"),
    "with the tracer switched off": (lambda: Calls(out_of_sight, w=matrix(D, D)), "made by no operator that can be seen"),
    "with the tracer switched off, in place": (lambda: Calls(out_of_sight_in_place, w=matrix(D, D)), "written by something that cannot be seen"),
    "left for the next pass": (lambda: Calls(left_for_the_next_pass, w=matrix(D, D), state=[torch.zeros(1, 1, D)]), "what the pass before left behind"),
    "read as whole numbers": (lambda: Calls(read_as_whole_numbers, w=matrix(D, D)), "branches on a number"),
    "a loop behind one token": (lambda: Whole(gated_on_a_token, e=nn.Embedding(V, D), w=matrix(D, D), head=linear_to_v()), "branches on a number"),
    "in a registered operator": (in_a_registered_operator, "kernel of its own"),
    "a copy made outside the pass": (copied_outside_the_pass, "holds the very numbers of w"),
    "a copy in a plain list": (copied_in_a_list, "holds the very numbers of w"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSEEN)
def test_what_cannot_be_seen_is_said(name: str) -> None:
    torch.manual_seed(0)
    make, said = UNSEEN[name]
    found = count_parameters(make())
    assert not found.proven
    assert any(said in note for note in found.notes), found.notes


def gated(where: Callable[[Tensor], bool]) -> nn.Module:
    return Calls(lambda m, x: thrice(x, m.w, 3 if where(x) else 1), w=matrix(D, D))


GATES: dict[str, Callable[[], nn.Module]] = {
    "a batch": lambda: gated(lambda x: x.shape[0] > 1),
    # every length but those that are always measured; the context is 16
    "the lengths between": lambda: gated(lambda x: x.shape[1] not in (1, 2, 8, 16)),
    # no number is read: the loop is as long as a tensor whose size the data decides
    "a size that data decides": lambda: Whole(
        lambda m, ids: m.head(thrice(m.e(ids), m.w, 1 + 2 * (ids[:1, :1] == 10**6).nonzero().shape[0])), e=nn.Embedding(V, D), w=matrix(D, D), head=linear_to_v()
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GATES)
def test_a_loop_behind_a_gate_counts_its_most_uses(name: str) -> None:
    torch.manual_seed(0)
    found = count_parameters(GATES[name]())
    assert (found.counted, found.proven) == (THREE, False), found.notes


def test_rows_taken_one_by_one_are_no_reuse() -> None:
    found = count_parameters(Calls(lambda m, x: torch.cat([row @ m.w for row in x.split(1)]), w=matrix(D, D)))
    assert (found.counted, found.proven) == (ENDS + 64, True), found.notes


def test_a_complex_number_is_two() -> None:
    w = nn.Parameter(torch.randn(D, D, dtype=torch.complex64))
    found = count_parameters(Calls(lambda m, x: (x.to(torch.complex64) @ m.w).real, w=w))
    assert (found.unique, found.counted, found.proven) == (ENDS + 2 * 64, ENDS + 2 * 64, True)


def test_a_gain_that_is_the_bias_too_is_used_twice() -> None:
    model = Calls(lambda m, x: F.layer_norm(x, (D,), m.gain, m.gain), gain=nn.Parameter(torch.ones(D)))
    assert count_parameters(model).counted == ENDS + 2 * D


def test_what_a_pass_writes_is_put_back() -> None:
    model = with_buffer(copied_into_a_buffer)
    count_parameters(model)
    assert not model.copy.any()


def test_tensors_that_nobody_registered_are_on_a_line() -> None:
    model = Calls(lambda m, x: x @ m.w @ m.fixed[0], w=matrix(D, D), fixed=[torch.randn(D, D)])
    found = count_parameters(model)
    assert (found.counted, found.proven) == (ENDS + 64, True)
    assert any(note.startswith("not counted: 64 numbers of tensors that are neither") for note in found.notes)


def test_flex_attention_is_looked_into() -> None:
    from torch.nn.attention.flex_attention import flex_attention

    def body(m: Any, x: Tensor) -> Tensor:
        made = (x @ m.w)[:, None]
        return flex_attention(made, made, (made[:, 0] @ m.w)[:, None])[:, 0]

    found = count_parameters(Calls(body, w=matrix(D, D)))
    assert (found.counted, found.proven) == (ENDS + 2 * 64, True), found.notes


def test_an_operator_over_functions_that_torch_hides_is_unproven() -> None:
    def body(m: Any, x: Tensor) -> Tensor:
        return torch.cond(torch.tensor(True), lambda x: thrice(x, m.w), lambda x: x.clone(), (x,))

    found = count_parameters(Calls(body, w=matrix(D, D)))
    assert not found.proven
    assert any("cond" in note and "cannot be seen" in note for note in found.notes)
