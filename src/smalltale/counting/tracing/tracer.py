"""Traces one forward pass: records every operator in which data meets weights.

Input: a module, its inputs, the storages of its weights. Output: a Trace (trace.py) of weight uses with the elements used.
A tensor is identified by its storage, whose source is data (derived from the input), weights (weight_regions.py) or constant.
Values that leave torch (numpy, a foreign kernel, a number read into Python) cannot be followed; the trace lists them as problems.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import DispatchKey
from torch._ops import HigherOrderOperator
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from smalltale.counting.tracing import operator_calls
from smalltale.counting.tracing.activations import lookup_activations, operator_activations
from smalltale.counting.tracing.backward_rules import COPIES, JOINS, MOVES, backward_rule
from smalltale.counting.tracing.data_lineage import DataLineage
from smalltale.counting.tracing.escapes import EscapeMode, StorageChecksums, caller_location
from smalltale.counting.tracing.eval_mode import StorageBackup, count_module_calls, evaluation_mode
from smalltale.counting.tracing.operator_calls import CONSTANT, DATA, OperatorCall, iter_tensors, storage_key
from smalltale.counting.tracing.trace import Trace, UnregisteredTensor, WeightUse
from smalltale.counting.tracing.weight_regions import Derived, Operand, Region, Source, Weight, weights_behind

OVERWRITES = ("copy_", "zero_", "fill_")


def trace_forward(
    model: nn.Module,
    call: Callable[[], Any],
    inputs: list[Tensor],
    weights: dict[int, Weight],
    keep_data: Set[Weight] = frozenset(),
    fill_selections: bool | None = None,
) -> Trace:
    """Run and trace `call`, a forward pass of `model` over `inputs`.

    keep_data: weights whose data operands are copied into the trace. fill_selections: where data selects elements, select
    all (True) or none (False) instead. With inputs and weights on the meta device only constants have values.
    """
    tracer = UseTracer(inputs, weights, keep_data, fill_selections)
    try:
        with evaluation_mode(model), count_module_calls() as calls, EscapeMode(tracer.record_escape), tracer:
            out = call()
        return tracer.build_trace(out, calls)
    finally:
        tracer.backup.restore()


class UseTracer(TorchDispatchMode):
    """Tracks the source of each storage, and records a WeightUse where data and weights are operands of one operator."""

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and the wrapper for True takes a tenth of the counting time

    def __init__(
        self, inputs: list[Tensor], weights: dict[int, Weight], keep_data: Set[Weight], fill: bool | None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keep_data, self.fill_selections = keep_data, fill
        self.on_meta = any(tensor.is_meta for tensor in inputs)
        self.lineage, self.checksums, self.backup = DataLineage(), StorageChecksums(), StorageBackup()
        self.sources: dict[int, Source | str] = dict(weights)
        self.storage_refs: list[StorageWeakRef] = []
        """Keep the identities of storages from being reused."""
        self.derived_count = 0
        # Dictionaries as ordered sets of messages and locations.
        self.problems: dict[str, None] = {}
        self.branches: dict[str, None] = {}
        self.selections: dict[str, None] = {}
        self.unregistered: list[UnregisteredTensor] = []
        for tensor in inputs:
            self.set_source(tensor, DATA)

    def build_trace(self, out: Any, module_calls: dict[int, int]) -> Trace:
        outputs = [tensor for tensor in operator_calls.iter_nested_tensors(out) if self.is_data(tensor)]
        return Trace(
            uses=self.lineage.finish_uses(outputs),
            problems=tuple(self.problems),
            branches=tuple(self.branches),
            selections=tuple(self.selections),
            unregistered=tuple(self.unregistered),
            module_calls=module_calls,
            output_is_data=bool(outputs),
        )

    def set_source(self, tensor: Tensor, source: Source | str) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.sources:
            self.storage_refs.append(StorageWeakRef(storage))  # type: ignore[no-untyped-call]
        self.sources[storage._cdata] = source

    def source_of(self, tensor: Tensor, lifted: bool = False) -> Source | str:
        """lifted: the tensor comes from torch.tensor(...) inside the pass, which arrives by lift_fresh."""
        source = self.sources.get(storage_key(tensor))
        if source is None:
            if lifted or not tensor.is_floating_point() or tensor.numel() == 0:
                source = CONSTANT
            else:
                label = "a tensor that is neither parameter nor buffer"
                source = Weight(operator_calls.storage_elements(tensor), label, tensor.element_size())
                self.unregistered.append(UnregisteredTensor(source, tensor, caller_location()))
            self.set_source(tensor, source)
        return source

    def is_data(self, tensor: Tensor) -> bool:
        return self.sources.get(storage_key(tensor)) == DATA

    def add_problem(self, event: str, consequence: str = "its further use cannot be traced") -> None:
        self.problems[f"{event} at {caller_location()}; {consequence}"] = None

    def record_escape(self, tensor: Tensor, method: str) -> None:
        source = self.sources.get(storage_key(tensor))
        if source is None or source == CONSTANT:
            return
        if self.on_meta:
            raise RuntimeError(f"tensors on the meta device have no values for .{method}")
        self.add_problem(f"{'data' if source == DATA else 'a weight'} leaves torch by .{method}")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            return self.run_higher_order(func, args, kwargs)
        if any(cls.__torch_dispatch__ is not Tensor.__torch_dispatch__ for cls in types):
            return NotImplemented  # the tensor class unwraps itself; the inner operators are dispatched here again
        name = func._schema.name.split("::")[-1]
        if torch.Tag.dynamic_output_shape in func.tags:
            args = self.record_selection(name, args, kwargs)
        call = self.describe_call(func, name, args, kwargs)
        operand_keys = {storage_key(tensor) for tensor in call.tensors}
        self.check_call(call)
        if self.on_meta:
            constant = all(source == CONSTANT for source in call.sources)
            out = operator_calls.run_on_meta(func, args, kwargs, constant)
        else:
            out = func(*args, **kwargs)
        results = list(iter_tensors(out))
        fresh = [result for result in results if storage_key(result) not in operand_keys]
        for tensor in [*fresh, *call.written]:
            self.checksums.record(tensor)
        if call.tensors and not results and not call.written:
            if out is not None:
                self.record_number_read(call)
        elif call.has_data and (fresh or call.written):
            self.record_data(call, [*call.written, *fresh])
        elif fresh or call.written:
            self.record_derived(call, fresh)
        return out

    def describe_call(self, func: Any, name: str, args: Any, kwargs: Any) -> OperatorCall:
        tensors = list(iter_tensors(args, kwargs))
        if name in operator_calls.SHAPE_ONLY:
            return OperatorCall(func, name, args, kwargs, tensors, [CONSTANT] * len(tensors), [], [], [])
        sources = [self.source_of(tensor, name == "lift_fresh") for tensor in tensors]
        pairs = list(zip(tensors, sources, strict=True))
        operands = [(tensor, source) for tensor, source in pairs if not isinstance(source, str)]
        copies = []
        if self.keep_data and DATA in sources:
            used = weights_behind([Operand.of(source, tensor) for tensor, source in operands])
            if any(weight in self.keep_data for weight, _ in used):
                copies = [tensor.detach().clone() for tensor, source in pairs if source == DATA]
        written = operator_calls.written_tensors(func, args, kwargs)
        return OperatorCall(func, name, args, kwargs, tensors, sources, operands, copies, written)

    def run_higher_order(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operator over functions: traced inside where torch allows it, otherwise a problem."""
        kernel = func.py_kernels[DispatchKey.CompositeExplicitAutograd]
        try:
            with self:
                return kernel(*args, **kwargs)
        except AssertionError:  # "Mode should never be enabled"
            out = kernel(*args, **kwargs)
        self.add_problem(f"{func.name()} runs functions", "they cannot be traced")
        for tensor in operator_calls.iter_nested_tensors(out):
            self.set_source(tensor, DATA)
        return out

    def record_selection(self, name: str, args: Any, kwargs: Any) -> Any:
        """Record an operator whose data decides the size of its result; returns its arguments, with filled masks if asked."""
        masks = operator_calls.selection_masks(name, args)
        if not any(self.is_data(tensor) for tensor in iter_tensors(args, kwargs)):
            return args
        if masks and any(self.is_data(mask) for mask in masks):
            self.selections[caller_location()] = None
            if self.fill_selections is not None:
                filled = {id(mask): torch.full_like(mask, self.fill_selections) for mask in masks}
                for mask in masks:
                    self.set_source(filled[id(mask)], self.source_of(mask))
                args = operator_calls.map_tensors(lambda tensor: filled.get(id(tensor), tensor), args)
            return args
        if name != "index":
            self.branches[caller_location()] = None
        return args

    def check_call(self, call: OperatorCall) -> None:
        """Record what cannot be traced, and back up weights that the call writes into."""
        traceable = call.func.namespace in operator_calls.TRACEABLE_NAMESPACES
        if (call.has_data or call.operands) and not traceable:
            self.add_problem(f"custom kernel {call.func.name()}", "its uses of weights cannot be traced")
        if any(self.checksums.has_changed(tensor) for tensor in call.tensors):
            self.add_problem("a tensor is read", "an untraced source has written it (thread, foreign kernel)")
        for tensor in call.written:
            if isinstance(self.sources.get(storage_key(tensor)), Weight):
                self.backup.save(tensor)

    def record_number_read(self, call: OperatorCall) -> None:
        """An operator that returns a Python number."""
        if call.has_data:
            self.branches[caller_location()] = None
        elif any(isinstance(source, Derived) or source.label != "buffer" for _, source in call.operands):
            self.add_problem("a weight is read into Python as a number")

    def record_data(self, call: OperatorCall, results: list[Tensor]) -> None:
        """An operator over data: its results are data, and the weights among its operands are used."""
        data = [tensor for tensor in call.tensors if self.is_data(tensor)]
        used = self.used_operands(call)
        elementwise = torch.Tag.pointwise in call.func.tags
        if used:
            keeps_elements = elementwise or call.name in MOVES | COPIES | JOINS
            use = self.describe_use(call, used, not self.lineage.combine(data).met_weight, keeps_elements)
            history = self.lineage.add_use(use, data, keeps_elements, results)
        else:
            history = self.lineage.mix_data(call.name, data, elementwise)
        for tensor in results:
            self.set_source(tensor, DATA)
            self.lineage.histories[storage_key(tensor)] = history

    def used_operands(self, call: OperatorCall) -> list[tuple[Tensor, Operand]]:
        """The weights that an operator over data uses; a storage that data is written into is no weight any more."""
        used = [
            (tensor, Operand.of(source, tensor))
            for tensor, source in call.operands_except(overwritten=call.name in OVERWRITES)
        ]
        for tensor in call.written:
            source = self.source_of(tensor)
            if isinstance(source, Derived):
                used.append((tensor, Operand(source, Region.full(source.elements))))
            elif isinstance(source, Weight) and source.label not in {"buffer", "frozen"}:
                self.add_problem(f"data is written into {source.label}")
        return used

    def describe_use(
        self, call: OperatorCall, used: list[tuple[Tensor, Operand]], from_ids: bool, keeps_elements: bool
    ) -> WeightUse:
        operands = [operand for _, operand in used]
        for operand in operands:
            if isinstance(operand.source, Derived):
                operand.source.cache_weights()
        sources = [(tensor, operand.source) for tensor, operand in used]
        if call.kind == "other" and not keeps_elements:
            # A gain that is also the bias, or a memory that is keys and values, is used once per argument.
            weights = [pair for operand in operands for pair in weights_behind([operand])]
        else:
            weights = weights_behind(operands)
        return WeightUse(
            kind=call.kind,
            operator=call.name,
            location=caller_location(),
            weights=weights,
            data=call.data_copies,
            activations=lookup_activations(call.name, call.args)
            if call.kind == "lookup"
            else operator_activations(call.func, call.args, self.is_data, sources),
            first_row=operator_calls.first_row(call, sources),
            from_ids=from_ids,
        )

    def record_derived(self, call: OperatorCall, fresh: list[Tensor]) -> None:
        """An operator without data: its results are derived from weights, or constant."""
        if not call.operands:
            for tensor in fresh:
                self.set_source(tensor, CONSTANT)
            return
        operands = call.operands_except(overwritten=call.name.endswith(OVERWRITES))
        tensors = [tensor for tensor, _ in operands]
        for result in [*fresh, *call.written]:
            previous = self.sources.get(storage_key(result))
            self.derived_count += 1
            derived = Derived(
                number=self.derived_count,
                elements=operator_calls.storage_elements(result),
                region=Region.of(result),
                operands=[Operand.of(source, tensor) for tensor, source in operands],
                rule=backward_rule(call.func, call.args, call.kwargs, tensors, result),
                element_bytes=result.element_size(),
                previous=None if isinstance(previous, str) else previous,
            )
            self.set_source(result, derived)
