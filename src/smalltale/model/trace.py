"""Watch one forward pass and note every operator in which data meets weights.

In: a module, its inputs, the storages of its weights. Out: a Trace of meetings (meetings.py), each with the weight elements
it used.
A tensor is known by its storage: it holds data (derived from the input), weights (model/marks.py), or constants.
Beware: what leaves torch (numpy, a foreign kernel, a number read into Python) cannot be followed; it is written down
in the trace as a problem.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from smalltale.model.activations import indices_of, vectors_of
from smalltale.model.lineage import Lineage, Past
from smalltale.model.marks import Derived, Operand, Region, Source, Weight, remember, weights_behind
from smalltale.model.meetings import (
    KNOWN_NAMESPACES,
    LEAVES_TORCH,
    LOOKUPS,
    PRODUCTS,
    SHAPE_ONLY,
    Kind,
    Meeting,
    Trace,
)
from smalltale.model.operators import COPIES, JOINS, MOVES, rule_for

TORCH_FOLDER = str(Path(torch.__file__).parent)
DATA, CONSTANT = "data", "constant"


def storage_key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def elements_of(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes() // max(1, tensor.element_size())


def trace(
    model: nn.Module,
    call: Callable[[], Any],
    inputs: list[Tensor],
    weights: dict[int, Weight],
    keep: Callable[[Weight], bool] | None = None,
    shapes_only: bool = False,
) -> Trace:
    """Run `call`, a forward pass of `model` over `inputs`, and watch it.

    keep: weights whose data is kept. shapes_only: inputs and weights are on the meta device, only constants have values.
    """
    watcher = Watcher(inputs, weights, keep, shapes_only)
    out = None
    with still(model), counted_calls(watcher.trace.calls), Leaving(watcher), watcher:
        out = call()
    watcher.finish(out)
    return watcher.trace


@contextlib.contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, nothing compiled, no fused fast path; all put back afterwards."""
    training = [(each, each.training) for each in model.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for each, was in training:
            each.training = was


@contextlib.contextmanager
def counted_calls(calls: dict[int, int]) -> Iterator[None]:
    """Count the calls of every module."""

    def note(module: nn.Module, _: Any) -> None:
        calls[id(module)] = calls.get(id(module), 0) + 1

    handle = nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield
    finally:
        handle.remove()


def caller() -> str:
    """File and line of the innermost frame outside torch and this file."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(TORCH_FOLDER) and name != __file__ and "torch/" not in name:
            return f"{Path(name).name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "torch"


class Leaving(TorchFunctionMode):
    """Notes what leaves torch by another door than an operator."""

    def __init__(self, watcher: Watcher) -> None:
        super().__init__()
        self.watcher = watcher

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in LEAVES_TORCH and args and isinstance(args[0], Tensor):
            self.watcher.left(args[0], name)
        return func(*args, **(kwargs or {}))


class Watcher(TorchDispatchMode):
    """Knows each storage, and writes a Meeting where data and weights are operands of one operator."""

    def __init__(
        self,
        inputs: list[Tensor],
        weights: dict[int, Weight],
        keep: Callable[[Weight], bool] | None,
        shapes_only: bool,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes_only = shapes_only
        self.trace = Trace()
        self.keep = keep
        self.lineage = Lineage()
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
                found = Weight(elements_of(tensor), "a tensor that is neither parameter nor buffer")
                self.trace.strangers.append((found, tensor))
            self.learn(tensor, found)
        return found

    def left(self, tensor: Tensor, door: str) -> None:
        what = self.known.get(storage_key(tensor))
        if what == DATA or isinstance(what, Weight | Derived):
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
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
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
        if self.shapes_only:
            out = shapes_of(func, args, kwargs, constant=all(what == CONSTANT for what in whats))
        else:
            out = func(*args, **kwargs)
        results = [each for each in tree_leaves(out) if isinstance(each, Tensor)]
        fresh = [each for each in results if storage_key(each) not in given]
        written = [] if name in SHAPE_ONLY else written_tensors(func, args, kwargs)
        if not results and tensors and not written:
            self.read_by_python(func, operands, has_data, tensors)
        elif has_data and (fresh or written):
            used = self.used_beside(name, operands, written)
            past = self.past_after(func, args, used, copies, tensors)
            for each in [*written, *fresh]:
                self.learn(each, DATA)
                self.lineage.pasts[storage_key(each)] = past
        elif fresh or written:
            self.weights_combine(func, args, kwargs, operands, written, fresh)
        return out

    def copies_for(self, tensors: list[Tensor], whats: list[Any], operands: list[Any]) -> list[Tensor]:
        """The data operands, kept where a weight behind the others is asked about."""
        assert self.keep is not None
        behind = (
            weights_behind([Operand(what, Region.of(each)) for each, what in operands]) if operands else []
        )
        if not any(self.keep(weight) for weight, _ in behind):
            return []
        return [each.detach().clone() for each, what in zip(tensors, whats, strict=True) if what == DATA]

    def read_by_python(self, func: Any, operands: list[Any], has_data: bool, tensors: list[Tensor]) -> None:
        """An operator that answers with a number."""
        if has_data:
            if any(each.is_floating_point() or each.dtype == torch.bool for each in tensors):
                self.trace.branches[caller()] = None
        elif any(what.label != "buffer" if isinstance(what, Weight) else True for _, what in operands):
            self.trace.problems[
                f"a weight is read into Python as a number at {caller()}; its further use cannot be seen"
            ] = None

    def used_beside(
        self, name: str, operands: list[tuple[Tensor, Source]], written: list[Tensor]
    ) -> list[tuple[Tensor, Source, Region]]:
        """The weights that an operator over data uses; what data is written into holds weights no more."""
        overwritten = {id(each) for each in written} if name in {"copy_", "zero_", "fill_"} else set()
        used = [(each, what, Region.of(each)) for each, what in operands if id(each) not in overwritten]
        for each in written:
            what = self.what(each)
            if isinstance(what, Derived):
                used.append((each, what, Region((what.elements,), (1,), 0)))
            elif isinstance(what, Weight) and what.label not in {"buffer", "frozen"}:
                self.trace.problems[f"data is written into {what.label} at {caller()}"] = None
        return used

    def past_after(
        self,
        func: Any,
        args: Any,
        used: list[tuple[Tensor, Source, Region]],
        copies: list[Tensor],
        tensors: list[Tensor],
    ) -> Past:
        """Note the meeting, where weights were used, and what stands behind the result."""
        name = func._schema.name.split("::")[-1]
        data = [(each, self.lineage.of(storage_key(each))) for each in tensors if self.is_data(each)]
        past = self.lineage.together(storage_key(each) for each, _ in data)
        elementwise = torch.Tag.pointwise in func.tags
        if not used:
            keeps = elementwise or name in MOVES | COPIES | JOINS
            return self.lineage.mixed(name, data, past, keeps)
        for _, source, _ in used:
            if isinstance(source, Derived):
                remember(source)
        behind = [Operand(source, region) for _, source, region in used]
        weights = [(each, source) for each, source, _ in used]
        kind = self.kind_of(name, args)
        meeting = Meeting(
            kind=kind,
            operator=name,
            place=caller(),
            operands=behind,
            weights=weights_behind(behind),
            data=copies,
            vectors=indices_of(name, args)
            if kind == "lookup"
            else vectors_of(func, args, self.is_data, weights),
            slice=slice_of(name, kind, args, weights),
            from_ids=not past.met,
        )
        self.trace.meetings.append(meeting)
        if func.namespace not in KNOWN_NAMESPACES:
            self.trace.problems[
                f"the operator {func.name()} at {caller()} is a kernel of its own; how often it uses its weights cannot be seen"
            ] = None
        return self.lineage.met(past, meeting, elementwise)

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
            if isinstance(before, Weight):
                continue
            self.numbers += 1
            tensors = [tensor for tensor, _ in sources]
            derived = Derived(
                number=self.numbers,
                elements=elements_of(each),
                region=Region.of(each),
                operands=[Operand(what, Region.of(tensor)) for tensor, what in sources],
                rule=rule_for(func, args, kwargs, tensors, each),
                before=before if isinstance(before, Derived) else None,
            )
            self.learn(each, derived)


def shapes_of(func: Any, args: Any, kwargs: Any, constant: bool) -> Any:
    """The operator's result on the meta device; of constants alone their values, which place look-ups exactly."""
    placed = any(each.name == "device" for each in func._schema.arguments)
    if constant:
        return func(*args, **({**kwargs, "device": torch.device("cpu")} if placed else kwargs))
    if placed:
        kwargs = {**kwargs, "device": torch.device("meta")}
    moved, named = tree_map(
        lambda each: each.to("meta") if isinstance(each, Tensor) else each, (args, kwargs)
    )
    out = func(*moved, **named)
    written = written_tensors(func, args, kwargs)
    return written[0] if len(written) == 1 and isinstance(out, Tensor) else out


def slice_of(name: str, kind: Kind, args: Any, weights: list[tuple[Tensor, Source]]) -> Operand | None:
    """The first row of a looked-up table; what makes the first output of a product with one matrix."""
    sources = {id(each): source for each, source in weights}
    if kind == "lookup":
        table = args[0]
        return Operand(sources[id(table)], Region.of(table).at(0, 0)) if id(table) in sources else None
    if name not in {"mm", "addmm", "bmm", "baddbmm"}:
        return None
    left, right = args[-2:]
    matrix, axis = (right, -1) if id(right) in sources else (left, -2)
    region = Region.of(matrix)
    if len(region.size) == 3:
        if region.size[0] != 1:
            return None
        region = region.at(0, 0)
    return Operand(sources[id(matrix)], region.at(axis, 0)) if id(matrix) in sources else None


def written_tensors(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The operands that the operator writes into."""
    found: list[Tensor] = []
    for number, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[number] if number < len(args) else kwargs.get(argument.name)
            found += [each for each in tree_leaves(value) if isinstance(each, Tensor)]
    return found


def all_tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested containers, dataclasses among them."""
    for each in tree_leaves(value):
        if isinstance(each, Tensor):
            yield each
        elif hasattr(each, "__dict__") and not isinstance(each, nn.Module | type):
            for inner in vars(each).values():
                yield from (found for found in tree_leaves(inner) if isinstance(found, Tensor))
