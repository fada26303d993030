"""A model held still while it is watched.

In: a module. Out: contexts in which it is evaluated without gradients, and after which it is as it was.
Beware: what a forward pass writes into its own weights and buffers is put back; its plain attributes are not.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


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


class Kept:
    """Storages as they were before a forward pass wrote into them."""

    def __init__(self) -> None:
        self.before: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if tensor.device.type != "meta" and storage._cdata not in self.before:
            whole = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
            self.before[storage._cdata] = (whole, whole.clone())

    def put_back(self) -> None:
        for whole, before in self.before.values():
            whole.copy_(before)
