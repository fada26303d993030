"""Watch one forward pass and note every operator in which data meets weights.

In: a module, its inputs, the storages of its weights. Out: a Trace of meetings (meetings.py), each with the weight elements
it used.
A tensor is known by its storage: it holds data (derived from the input), weights (model/marks.py), or constants.
Beware: what leaves torch (numpy, a foreign kernel, a number read into Python) cannot be followed; it is written down
in the trace as a problem.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import DispatchKey
from torch._ops import HigherOrderOperator
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from smalltale.counting.tracing.activations import indices_of, vectors_of
from smalltale.counting.tracing.backward_rules import COPIES, JOINS, MOVES, rule_for
from smalltale.counting.tracing.data_lineage import Lineage, Past
from smalltale.counting.tracing.escapes import Contents, Leaving, caller
from smalltale.counting.tracing.eval_mode import Kept, counted_calls, still
from smalltale.counting.tracing.operator_calls import (
    all_or_none,
    all_tensors,
    elements_of,
    masks_of,
    shapes_of,
    slice_of,
    storage_key,
    tensors_in,
    written_tensors,
)
from smalltale.counting.tracing.trace import (
    KNOWN_NAMESPACES,
    LOOKUPS,
    PRODUCTS,
    SHAPE_ONLY,
    Kind,
    Meeting,
    Trace,
)
from smalltale.counting.tracing.weight_regions import (
    Derived,
    Operand,
    Region,
    Source,
    Weight,
    remember,
    weights_behind,
)

DATA, CONSTANT = "data", "constant"


def trace(
    model: nn.Module,
    call: Callable[[], Any],
    inputs: list[Tensor],
    weights: dict[int, Weight],
    keep: Callable[[Weight], bool] | None = None,
    shapes_only: bool = False,
    choose: bool | None = None,
) -> Trace:
    """Run `call`, a forward pass of `model` over `inputs`, and watch it.

    keep: weights whose data is kept. shapes_only: inputs and weights are on the meta device, only constants have values.
    choose: where data picks how many elements there are, pick all (True) or none (False) instead.
    """
    watcher = Watcher(inputs, weights, keep, shapes_only, choose)
    out = None
    try:
        with still(model), counted_calls(watcher.trace.calls), Leaving(watcher.left), watcher:
            out = call()
        watcher.finish(out)
    finally:
        watcher.kept.put_back()
    return watcher.trace


class Watcher(TorchDispatchMode):
    """Knows each storage, and writes a Meeting where data and weights are operands of one operator."""

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and the wrapper that says so costs a tenth of the count

    def __init__(
        self,
        inputs: list[Tensor],
        weights: dict[int, Weight],
        keep: Callable[[Weight], bool] | None,
        shapes_only: bool,
        choose: bool | None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes_only, self.choose = shapes_only, choose
        self.trace = Trace()
        self.keep = keep
        self.lineage = Lineage()
        self.contents = Contents()
        self.kept = Kept()
        self.known: dict[int, Source | str] = dict(weights)
        self.held: list[StorageWeakRef] = []
        self.numbers = 0
        for each in inputs:
            self.learn(each, DATA)

    def learn(self, tensor: Tensor, what: Source | str) -> None:
        """From now on the tensor's storage holds `what`; its identity is never given to another."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.known:
            self.held.append(StorageWeakRef(storage))  # type: ignore[no-untyped-call]
        self.known[storage._cdata] = what

    def what(self, tensor: Tensor, fresh: bool = False) -> Source | str:
        found = self.known.get(storage_key(tensor))
        if found is None:
            # torch.tensor(...) inside the pass arrives by lift_fresh
            if fresh or not tensor.is_floating_point() or tensor.numel() == 0:
                found = CONSTANT
            else:
                label = "a tensor that is neither parameter nor buffer"
                found = Weight(elements_of(tensor), label, tensor.element_size())
                self.trace.strangers.append((found, tensor, caller()))
            self.learn(tensor, found)
        return found

    def left(self, tensor: Tensor, door: str) -> None:
        what = self.known.get(storage_key(tensor))
        if what == DATA or isinstance(what, Weight | Derived):
            if self.shapes_only:
                raise RuntimeError(f"shapes have no numbers to give by .{door}")
            kind = "data" if what == DATA else "a weight"
            self.trace.problems[
                f"{kind} leaves torch by .{door} at {caller()}; what happens there cannot be seen"
            ] = None

    def is_data(self, tensor: Tensor) -> bool:
        return self.known.get(storage_key(tensor)) == DATA

    def finish(self, out: Any) -> None:
        ends = [storage_key(each) for each in all_tensors(out) if self.is_data(each)]
        self.trace.output_is_data = bool(ends)
        self.lineage.finish(self.lineage.together(ends))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            return self.higher(func, args, kwargs)
        if any(each.__torch_dispatch__ is not Tensor.__torch_dispatch__ for each in types):
            return NotImplemented  # the class takes itself apart; what is inside comes here
        if torch.Tag.dynamic_output_shape in func.tags:
            args = self.picked(func, args, kwargs)
        tensors = list(tensors_in(args, kwargs))
        name = func._schema.name.split("::")[-1]
        whats = [
            CONSTANT if name in SHAPE_ONLY else self.what(each, name == "lift_fresh") for each in tensors
        ]
        operands = [
            (each, what) for each, what in zip(tensors, whats, strict=True) if not isinstance(what, str)
        ]
        has_data = DATA in whats
        given = {storage_key(each) for each in tensors}
        copies = self.copies_for(tensors, whats, operands) if self.keep and has_data else []
        written = [] if name in SHAPE_ONLY else written_tensors(func, args, kwargs)
        self.before_call(func, tensors, written, has_data or bool(operands))
        if self.shapes_only:
            out = shapes_of(func, args, kwargs, constant=all(what == CONSTANT for what in whats))
        else:
            out = func(*args, **kwargs)
        results = list(tensors_in(out))
        fresh = [each for each in results if storage_key(each) not in given]
        for each in [*fresh, *written]:
            self.contents.note(each)
        if not results and tensors and not written:
            if out is not None:
                self.read_by_python(operands, has_data)
        elif has_data and (fresh or written):
            used = self.used_beside(name, operands, written)
            past = self.past_after(func, args, used, copies, tensors, [*written, *fresh])
            for each in [*written, *fresh]:
                self.learn(each, DATA)
                self.lineage.pasts[storage_key(each)] = past
        elif fresh or written:
            self.weights_combine(func, args, kwargs, operands, written, fresh)
        return out

    def higher(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operator over functions: looked into where torch lets us, else a kernel of its own."""
        kernel = func.py_kernels[DispatchKey.CompositeExplicitAutograd]
        try:
            with self:
                return kernel(*args, **kwargs)
        except AssertionError:  # "Mode should never be enabled"
            out = kernel(*args, **kwargs)
        self.trace.problems[
            f"what {func.name()} at {caller()} runs cannot be seen, nor how often it uses its weights"
        ] = None
        for each in all_tensors(out):
            self.learn(each, DATA)
        return out

    def picked(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The arguments of an operator whose result has as many elements as its data picks."""
        name = func._schema.name.split("::")[-1]
        masks = masks_of(name, args)
        if not any(self.is_data(each) for each in tensors_in(args, kwargs)):
            return args
        if masks and any(self.is_data(each) for each in masks):
            self.trace.picks[caller()] = None
            return args if self.choose is None else all_or_none(args, masks, self.choose, self.learn_as)
        if name != "index":
            self.trace.branches[caller()] = None
        return args

    def learn_as(self, new: Tensor, old: Tensor) -> None:
        self.learn(new, self.what(old))

    def before_call(self, func: Any, tensors: list[Tensor], written: list[Tensor], known: bool) -> None:
        """Note what cannot be followed, and keep what is about to be written over."""
        if known and func.namespace not in KNOWN_NAMESPACES:
            self.trace.problems[
                f"the operator {func.name()} at {caller()} is a kernel of its own; how often it uses its weights cannot be seen"
            ] = None
        if any(self.contents.changed(each) for each in tensors):
            self.trace.problems[
                f"a tensor read at {caller()} was written by something that cannot be seen (a thread, a foreign kernel)"
            ] = None
        for each in written:
            if isinstance(self.known.get(storage_key(each)), Weight):
                self.kept.keep(each)

    def copies_for(self, tensors: list[Tensor], whats: list[Any], operands: list[Any]) -> list[Tensor]:
        """The data operands, kept where a weight behind the others is asked about."""
        assert self.keep is not None
        behind = weights_behind([Operand.of(what, each) for each, what in operands]) if operands else []
        if not any(self.keep(weight) for weight, _ in behind):
            return []
        return [each.detach().clone() for each, what in zip(tensors, whats, strict=True) if what == DATA]

    def read_by_python(self, operands: list[Any], has_data: bool) -> None:
        """An operator that answers with a number."""
        if has_data:
            self.trace.branches[caller()] = None
        elif any(what.label != "buffer" if isinstance(what, Weight) else True for _, what in operands):
            self.trace.problems[
                f"a weight is read into Python as a number at {caller()}; its further use cannot be seen"
            ] = None

    def used_beside(
        self, name: str, operands: list[tuple[Tensor, Source]], written: list[Tensor]
    ) -> list[tuple[Tensor, Operand]]:
        """The weights that an operator over data uses; what data is written into holds weights no more."""
        overwritten = {id(each) for each in written} if name in {"copy_", "zero_", "fill_"} else set()
        used = [(each, Operand.of(what, each)) for each, what in operands if id(each) not in overwritten]
        for each in written:
            what = self.what(each)
            if isinstance(what, Derived):
                used.append((each, Operand(what, Region((what.elements,), (1,), 0))))
            elif isinstance(what, Weight) and what.label not in {"buffer", "frozen"}:
                self.trace.problems[f"data is written into {what.label} at {caller()}"] = None
        return used

    def past_after(
        self,
        func: Any,
        args: Any,
        used: list[tuple[Tensor, Operand]],
        copies: list[Tensor],
        tensors: list[Tensor],
        made: list[Tensor],
    ) -> Past:
        """Note the meeting, where weights were used, and what stands behind the result."""
        name = func._schema.name.split("::")[-1]
        data = [(each, self.lineage.of(storage_key(each))) for each in tensors if self.is_data(each)]
        past = self.lineage.together(storage_key(each) for each, _ in data)
        elementwise = torch.Tag.pointwise in func.tags
        if not used:
            return self.lineage.mixed(name, data, past, elementwise)
        behind = [operand for _, operand in used]
        for operand in behind:
            if isinstance(operand.source, Derived):
                remember(operand.source)
        weights = [(each, operand.source) for each, operand in used]
        kind = self.kind_of(name, args)
        # A gain that is the bias too, or a memory that is keys and values, is used in each place it is given.
        apart = kind == "other" and not elementwise and name not in MOVES | COPIES | JOINS
        meeting = Meeting(
            kind=kind,
            operator=name,
            place=caller(),
            operands=behind,
            weights=[pair for each in behind for pair in weights_behind([each])]
            if apart
            else weights_behind(behind),
            data=copies,
            vectors=indices_of(name, args)
            if kind == "lookup"
            else vectors_of(func, args, self.is_data, weights),
            slice=slice_of(name, kind, args, weights),
            from_ids=not past.met,
        )
        self.trace.meetings.append(meeting)
        keeps = elementwise or name in MOVES | COPIES | JOINS
        return self.lineage.met(past, meeting, data, keeps, made)

    def kind_of(self, name: str, args: Any) -> Kind:
        if name in LOOKUPS and args and isinstance(args[0], Tensor) and not self.is_data(args[0]):
            return "lookup"
        return "product" if name in PRODUCTS else "other"

    def weights_combine(
        self,
        func: Any,
        args: Any,
        kwargs: Any,
        operands: list[tuple[Tensor, Source]],
        written: list[Tensor],
        fresh: list[Tensor],
    ) -> None:
        """No data: results are derived from weights, or constants."""
        if not operands:
            for each in fresh:
                self.learn(each, CONSTANT)
            return
        overwritten = (
            {id(each) for each in written}
            if func._schema.name.endswith(("copy_", "zero_", "fill_"))
            else set()
        )
        sources = [(each, what) for each, what in operands if id(each) not in overwritten]
        for each in [*fresh, *written]:
            before = self.known.get(storage_key(each))
            self.numbers += 1
            tensors = [tensor for tensor, _ in sources]
            derived = Derived(
                number=self.numbers,
                elements=elements_of(each),
                region=Region.of(each),
                operands=[Operand.of(what, tensor) for tensor, what in sources],
                rule=rule_for(func, args, kwargs, tensors, each),
                item_bytes=each.element_size(),
                before=None if isinstance(before, str) else before,
            )
            self.learn(each, derived)
