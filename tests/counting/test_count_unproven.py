"""Models whose uses cannot be proven: conditional loops, depth by data, numbers that leave torch. The larger count is reported."""

from __future__ import annotations

import pytest
import torch
from architectures import D, FunctionBody, FunctionModel, V, linear, matrix
from torch import Tensor, nn

from smalltale.counting.budget import refuse_over_budget
from smalltale.counting.count import count_parameters
from smalltale.errors import OverBudget, SmalltaleError
from smalltale.rules import Rules, WeightClass

ENDS = 2 * V * D


def loop(m: FunctionBody, x: Tensor, times: int) -> Tensor:
    for _ in range(times):
        x = x + (x @ m.w).relu()
    return x


def test_a_loop_that_depends_on_the_length_counts_its_most_uses() -> None:
    # 3 uses of 64 for more than one position
    report = count_parameters(
        FunctionBody(lambda m, x: loop(m, x, 3 if x.shape[1] > 1 else 1), w=matrix(D, D))
    )
    assert (report.unique, report.counted, report.proven) == (ENDS + 64, ENDS + 3 * 64, False)
    assert any("same positions" in note for note in report.notes)


def test_a_loop_only_at_the_context_counts_its_most_uses() -> None:
    report = count_parameters(
        FunctionBody(lambda m, x: loop(m, x, 5 if x.shape[1] > 8 else 1), w=matrix(D, D))
    )
    assert (report.counted, report.proven) == (ENDS + 5 * 64, False)


def test_a_batch_does_not_lower_the_uses_of_longer_inputs() -> None:
    def gated(m: FunctionBody, x: Tensor) -> Tensor:
        return loop(m, x, 5 if x.shape[1] > 8 else 2 if x.shape[0] > 1 else 1)

    report = count_parameters(FunctionBody(gated, w=matrix(D, D)))
    assert (report.counted, report.proven) == (ENDS + 5 * 64, False)


def test_a_weight_used_in_a_batch_but_not_in_its_rows_is_counted() -> None:
    # used in 3 rows of 2 positions and from length 8 on
    model = FunctionBody(lambda m, x: loop(m, x, 3 if x[..., 0].numel() >= 6 else 0), w=matrix(D, D))
    assert count_parameters(model).counted == ENDS + 3 * 64


def test_depth_only_at_the_last_position_is_no_recurrence() -> None:
    def last(m: FunctionBody, x: Tensor) -> Tensor:
        return torch.cat([x[:, :-1], loop(m, x[:, -1:], x.shape[1])], 1)

    report = count_parameters(FunctionBody(last, w=matrix(D, D)))
    assert report.counted == ENDS + 16 * 64  # the context is 16
    assert not report.proven


def test_depth_that_depends_on_data_counts_the_most_measured_or_declared_uses() -> None:
    def adaptive(m: FunctionBody, x: Tensor) -> Tensor:
        return loop(m, x, 1 + int(x.sum().abs() * 10) % 4)

    model = FunctionBody(adaptive, w=matrix(D, D))
    report = count_parameters(model)
    assert not report.proven
    assert ENDS + 2 * 64 <= report.counted <= ENDS + 4 * 64
    assert count_parameters(model, depth=7).counted == ENDS + 7 * 64
    assert any("branches" in note for note in report.notes)


def test_a_weight_read_into_python_is_noted() -> None:
    report = count_parameters(
        FunctionBody(lambda m, x: x * m.scale.item(), scale=nn.Parameter(torch.ones(())))
    )
    assert not report.proven
    assert any("read into Python" in note for note in report.notes)


def test_a_tensor_that_leaves_torch_through_numpy_is_noted() -> None:
    def through_numpy(m: FunctionBody, x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy() @ m.w.detach().numpy())

    report = count_parameters(FunctionBody(through_numpy, w=matrix(D, D)))
    assert not report.proven
    assert any(".numpy" in note for note in report.notes)


def test_a_module_with_untraced_uses_counts_its_calls() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = matrix(D, D)

        def forward(self, x: Tensor) -> Tensor:
            return torch.from_numpy(x.numpy() @ self.w.detach().numpy())

    report = count_parameters(FunctionBody(lambda m, x: m.hidden(m.hidden(x)), hidden=Hidden()))
    assert (report.counted, report.proven) == (ENDS + 2 * 64, False)


def test_a_custom_kernel_is_unproven() -> None:
    library = torch.library.Library("smalltale_test", "FRAGMENT")
    library.define("opaque(Tensor x, Tensor w) -> Tensor")
    library.impl("opaque", lambda x, w: ((x @ w) @ w) @ w, "CPU")
    report = count_parameters(
        FunctionBody(lambda m, x: torch.ops.smalltale_test.opaque(x, m.w), w=matrix(D, D))
    )
    assert not report.proven
    assert any("custom kernel" in note for note in report.notes)


def test_frozen_weights_that_take_part_are_noted() -> None:
    model = FunctionBody(lambda m, x: m.inner(x) + m.table[0], inner=linear().requires_grad_(False))
    model.register_buffer("table", torch.ones(3, D))
    notes = count_parameters(model).notes
    assert any(note.startswith("not counted: 64 frozen weights that take part") for note in notes)
    assert any(note.startswith("not counted: 24 numbers in buffers") for note in notes)


def test_every_float_counts_frozen_weights_except_declared_ones() -> None:
    def build() -> FunctionBody:
        return FunctionBody(lambda m, x: m.inner(x), inner=linear().requires_grad_(False))

    assert count_parameters(build(), every_float=True).counted == ENDS + 64
    assert count_parameters(build(), every_float=True, frozen=frozenset({"inner.weight"})).counted == ENDS


def test_the_note_on_reuse_names_operator_and_line() -> None:
    report = count_parameters(FunctionBody(lambda m, x: loop(m, x, 2), w=matrix(D, D)))
    note = next(note for note in report.notes if note.startswith("reused: w"))
    assert "2 times" in note
    assert "mm at test_count_unproven.py:" in note


def test_counting_does_not_change_the_model() -> None:
    model = FunctionBody(lambda m, x: m.drop(x), drop=nn.Dropout(0.5)).train()
    model.head.eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count_parameters(model)
    assert model.training
    assert model.drop.training
    assert not model.head.training
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_a_failing_forward_pass_is_reported() -> None:
    with pytest.raises(
        SmalltaleError, match=r"forward pass of FunctionModel on an input of length 1 failed: ValueError: no"
    ):
        count_parameters(FunctionModel(fail))


def fail(m: nn.Module, ids: Tensor) -> Tensor:
    raise ValueError("no")


def test_a_model_without_a_vocabulary_needs_inputs() -> None:
    with pytest.raises(SmalltaleError, match="give count_parameters its inputs"):
        count_parameters(nn.Linear(D, D))
    assert count_parameters(nn.Linear(D, D), torch.randn(1, 4, D)).counted == 72


def test_the_error_over_budget_names_the_layers_that_would_fit() -> None:
    layers = nn.ModuleList(linear() for _ in range(11))
    report = count_parameters(FunctionBody(run_layers, layers=layers))
    # 176 + 11·64 = 880; 176 + 9·64 = 752
    tiny = WeightClass(name="tiny", max_parameters=800, hardware="")
    with pytest.raises(OverBudget, match="9 layers instead of 11"):
        refuse_over_budget(report, tiny)
    refuse_over_budget(report, Rules().weight_class("small"))


def run_layers(m: FunctionBody, x: Tensor) -> Tensor:
    for layer in m.layers:
        x = layer(x)
    return x
