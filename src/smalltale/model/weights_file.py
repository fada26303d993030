"""Checks a weights file against a model by names, shapes and types, before any weight is read.

In: a module and a safetensors file, or a pickled state_dict where the caller allows it. Out: nothing, or FileProblem.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from smalltale.errors import FileProblem
from smalltale.files import explained
from smalltale.model.architectures import FORWARD_ERRORS

HEADER_LIMIT = 100_000_000
"""The safetensors format's own limit on its header, in bytes."""


def check_weights(model: nn.Module, path: Path, allow_pickle: bool = False) -> None:
    """Raise FileProblem unless the file's names and shapes are the model's; safetensors by its header alone.

    A nanoGPT, LitGPT or Lightning checkpoint is a pickle: it is opened only where allowed, and then only tensors of it.
    """
    if path.suffix == ".safetensors":
        found = {
            name: (tuple(each["shape"]), each["dtype"]) for name, each in safetensors_header(path).items()
        }
        compare_shapes(model, {name: shape for name, (shape, _) in found.items()}, path)
        state = model.state_dict()
        for name, (_, dtype) in found.items():
            if (dtype[0] in "BF" and dtype != "BOOL") != state[name].is_floating_point() and dtype != "C64":
                raise FileProblem(
                    f"{path}: weight {name} is {dtype}, the model's is {state[name].dtype}; the file is not of this model"
                )
        return
    if not allow_pickle:
        raise FileProblem(
            f"{path} is a pickle, which may run code when opened; give safetensors, or say --allow-pickle"
        )
    try:
        loaded = torch.load(path, map_location="meta", weights_only=True)
    except (*FORWARD_ERRORS, OSError, EOFError) as error:
        raise FileProblem(
            f"{path} is not a checkpoint of tensors ({type(error).__name__}); save its state_dict anew"
        ) from error
    except pickle.UnpicklingError as error:
        raise FileProblem(
            f"{path} holds more than tensors, and that is not run; save its state_dict anew"
        ) from error
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    shapes = {}
    for name, each in loaded.items():
        if isinstance(each, torch.Tensor):
            for prefix in ("_orig_mod.", "model.", "module."):
                if name.startswith(prefix) and name not in model.state_dict():
                    name = name.removeprefix(prefix)
            shapes[name] = tuple(each.shape)
    compare_shapes(model, shapes, path)


def compare_shapes(model: nn.Module, found: dict[str, tuple[int, ...]], path: Path) -> None:
    """Names of one storage may be left out but for one, as safetensors wants it."""
    state = model.state_dict(keep_vars=True)
    expected = {name: tuple(each.shape) for name, each in state.items()}
    groups: dict[int, list[str]] = {}
    for name, each in state.items():
        groups.setdefault(each.data_ptr() if not each.is_meta else id(each), []).append(name)
    missing = {name for names in groups.values() for name in names if not set(names) & found.keys()}
    wrong = {name for name in found if found[name] != expected.get(name)} | missing
    if wrong:
        name = min(wrong)
        raise FileProblem(
            f"{path}: weight {name} has shape {found.get(name)}, the model's is {expected.get(name)}; "
            "the file is not of this model"
        )


def safetensors_header(path: Path) -> dict[str, Any]:
    """A safetensors file's table, checked against the file: offsets without gap or overlap, sizes as shapes and types say."""

    with explained(path), path.open("rb") as opened:
        size = path.stat().st_size
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > min(HEADER_LIMIT, size - 8):
            raise FileProblem(
                f"{path} is not safetensors: its header claims {length:,} bytes, the file has {size:,}; copy it again"
            )
        raw = opened.read(length)
    try:
        table = json.loads(raw)
        table.pop("__metadata__", None)
        spans = sorted((*each["data_offsets"], name) for name, each in table.items())
        end = 0
        for start, stop, name in spans:
            elements = torch.Size(table[name]["shape"]).numel()
            if start != end or stop - start != elements * BYTES[table[name]["dtype"]]:
                raise FileProblem(
                    f"{path}: the header lies about {name}: its shape and type do not fill bytes {start:,} to {stop:,}"
                )
            end = stop
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise FileProblem(
            f"{path} is not safetensors: its header cannot be read ({error}); copy it again"
        ) from error
    if end != size - 8 - length:
        raise FileProblem(
            f"{path}: the header claims {end:,} bytes of weights, the file has {size - 8 - length:,}; copy it again"
        )
    return dict(table)


BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1, "U16": 2, "U32": 4,
    "U64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "C64": 8,
}  # fmt: skip
"""Bytes of an element by safetensors' names."""
