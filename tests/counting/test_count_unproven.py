"""What hides from a count: gated loops, depth by data, numbers that leave torch. The larger figure stands, unproven."""

from __future__ import annotations

import pytest
import torch
from architectures import Calls, D, V, Whole, linear, matrix
from torch import Tensor, nn

from smalltale.counting.count import count_parameters, refuse_over_budget
from smalltale.errors import OverBudget, SmalltaleError
from smalltale.rules import Rules, WeightClass

ENDS = 2 * V * D


def loop(m: Calls, x: Tensor, times: int) -> Tensor:
    for _ in range(times):
        x = x + (x @ m.w).relu()
    return x


def test_a_loop_hidden_behind_the_length_counts_its_most_uses() -> None:
    # 3 rounds of 64 wherever there is more than one position
    found = count_parameters(Calls(lambda m, x: loop(m, x, 3 if x.shape[1] > 1 else 1), w=matrix(D, D)))
    assert (found.unique, found.counted, found.proven) == (ENDS + 64, ENDS + 3 * 64, False)
    assert any("same positions" in note for note in found.notes)


def test_a_loop_that_starts_at_the_context_counts_its_most_uses() -> None:
    found = count_parameters(Calls(lambda m, x: loop(m, x, 5 if x.shape[1] > 8 else 1), w=matrix(D, D)))
    assert (found.counted, found.proven) == (ENDS + 5 * 64, False)


def test_depth_at_the_last_position_alone_is_no_recurrence() -> None:
    def last(m: Calls, x: Tensor) -> Tensor:
        return torch.cat([x[:, :-1], loop(m, x[:, -1:], x.shape[1])], 1)

    found = count_parameters(Calls(last, w=matrix(D, D)))
    assert found.counted == ENDS + 16 * 64  # the context is 16
    assert not found.proven


def test_depth_that_follows_the_data_counts_the_most_found_or_declared() -> None:
    def adaptive(m: Calls, x: Tensor) -> Tensor:
        return loop(m, x, 1 + int(x.sum().abs() * 10) % 4)

    model = Calls(adaptive, w=matrix(D, D))
    found = count_parameters(model)
    assert not found.proven
    assert ENDS + 2 * 64 <= found.counted <= ENDS + 4 * 64
    assert count_parameters(model, depth=7).counted == ENDS + 7 * 64
    assert any("branches" in note for note in found.notes)


def test_a_number_read_into_python_is_named() -> None:
    found = count_parameters(Calls(lambda m, x: x * m.scale.item(), scale=nn.Parameter(torch.ones(()))))
    assert not found.proven
    assert any("read into Python" in note for note in found.notes)


def test_numpy_is_a_door_that_is_named() -> None:
    def through_numpy(m: Calls, x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy() @ m.w.detach().numpy())

    found = count_parameters(Calls(through_numpy, w=matrix(D, D)))
    assert not found.proven
    assert any(".numpy" in note for note in found.notes)


def test_a_module_called_out_of_sight_counts_its_calls() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = matrix(D, D)

        def forward(self, x: Tensor) -> Tensor:
            return torch.from_numpy(x.numpy() @ self.w.detach().numpy())

    found = count_parameters(Calls(lambda m, x: m.hidden(m.hidden(x)), hidden=Hidden()))
    assert (found.counted, found.proven) == (ENDS + 2 * 64, False)


def test_a_foreign_kernel_is_unproven() -> None:
    library = torch.library.Library("smalltale_test", "FRAGMENT")
    library.define("opaque(Tensor x, Tensor w) -> Tensor")
    library.impl("opaque", lambda x, w: ((x @ w) @ w) @ w, "CPU")
    found = count_parameters(Calls(lambda m, x: torch.ops.smalltale_test.opaque(x, m.w), w=matrix(D, D)))
    assert not found.proven
    assert any("kernel of its own" in note for note in found.notes)


def test_frozen_weights_that_take_part_are_on_a_line() -> None:
    model = Calls(lambda m, x: m.inner(x) + m.table[0], inner=linear().requires_grad_(False))
    model.register_buffer("table", torch.ones(3, D))
    notes = count_parameters(model).notes
    assert any(note.startswith("not counted: 64 frozen weights that take part") for note in notes)
    assert any(note.startswith("not counted: 24 numbers in buffers") for note in notes)


def test_an_organiser_counts_frozen_weights_but_for_a_declared_list() -> None:
    def make() -> Calls:
        return Calls(lambda m, x: m.inner(x), inner=linear().requires_grad_(False))

    assert count_parameters(make(), every_float=True).counted == ENDS + 64
    assert count_parameters(make(), every_float=True, frozen=frozenset({"inner.weight"})).counted == ENDS


def test_reuse_is_told_with_operator_and_line() -> None:
    found = count_parameters(Calls(lambda m, x: loop(m, x, 2), w=matrix(D, D)))
    note = next(note for note in found.notes if note.startswith("reused: w"))
    assert "2 times" in note
    assert "mm at test_count_unproven.py:" in note


def test_the_model_is_left_as_it_was() -> None:
    model = Calls(lambda m, x: m.drop(x), drop=nn.Dropout(0.5)).train()
    model.head.eval()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    count_parameters(model)
    assert model.training
    assert model.drop.training
    assert not model.head.training
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())


def test_a_forward_that_fails_is_named() -> None:
    with pytest.raises(
        SmalltaleError, match=r"forward pass of Whole on an input of length 1 failed: ValueError: no"
    ):
        count_parameters(Whole(fail))


def fail(m: nn.Module, ids: Tensor) -> Tensor:
    raise ValueError("no")


def test_a_model_without_a_vocabulary_asks_for_inputs() -> None:
    with pytest.raises(SmalltaleError, match="give count_parameters its inputs"):
        count_parameters(nn.Linear(D, D))
    assert count_parameters(nn.Linear(D, D), torch.randn(1, 4, D)).counted == 72


def test_over_the_budget_says_how_many_layers_would_fit() -> None:
    layers = nn.ModuleList(linear() for _ in range(11))
    found = count_parameters(Calls(through, layers=layers))
    # 176 + 11·64 = 880; 176 + 9·64 = 752
    tiny = WeightClass(name="tiny", max_parameters=800, hardware="")
    with pytest.raises(OverBudget, match="9 layers instead of 11"):
        refuse_over_budget(found, tiny)
    refuse_over_budget(found, Rules().weight_class("small"))


def through(m: Calls, x: Tensor) -> Tensor:
    for layer in m.layers:
        x = layer(x)
    return x
