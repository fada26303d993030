"""Contexts in which a model runs in evaluation mode, without gradients, and is restored afterwards.

Weights and buffers that a forward pass writes are restored; the model's plain attributes are not.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, no compilation, no fused fast path; all restored on exit."""
    training_flags = [(module, module.training) for module in model.modules()]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for module, training in training_flags:
            module.training = training


@contextlib.contextmanager
def count_module_calls() -> Iterator[dict[int, int]]:
    """A dictionary of module id -> number of calls, filled while the context is open."""
    calls: dict[int, int] = {}

    def count_call(module: nn.Module, _: Any) -> None:
        calls[id(module)] = calls.get(id(module), 0) + 1

    handle = nn.modules.module.register_module_forward_pre_hook(count_call)
    try:
        yield calls
    finally:
        handle.remove()


class StorageBackup:
    """Copies of storages from before a forward pass wrote into them."""

    def __init__(self) -> None:
        self.copies: dict[int, tuple[Tensor, Tensor]] = {}

    def save(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if tensor.device.type != "meta" and storage._cdata not in self.copies:
            bytes_view = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
            self.copies[storage._cdata] = (bytes_view, bytes_view.clone())

    def restore(self) -> None:
        for bytes_view, copy in self.copies.values():
            bytes_view.copy_(copy)
