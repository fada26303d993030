"""Checks a weights file against a model by names, shapes and types, before any weight is read.

Input: a module and a safetensors file, or a pickled state_dict if the caller allows it. Output: None, or FileProblem.
`safetensors.safe_open` maps the file, reads its header only and refuses a header that is too large for the file, unknown
types, sizes that shape and type do not give, gaps, overlaps, and bytes missing or left over at the end.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from smalltale.errors import FileProblem
from smalltale.files import translate_os_errors
from smalltale.model.architectures import FORWARD_ERRORS

COMPLEX = "C64"
NON_FLOAT_TYPES = {"BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64"}
WRAPPER_KEYS = ("model", "state_dict", "model_state_dict")
"""Keys under which nanoGPT, LitGPT and Lightning checkpoints hold the state_dict."""
WRAPPER_PREFIXES = ("_orig_mod.", "model.", "module.")
"""Prefixes that torch.compile, Lightning and DistributedDataParallel add to the names of weights."""


def check_weights(model: nn.Module, path: Path, allow_pickle: bool = False) -> None:
    """Raise FileProblem unless the file's names and shapes are the model's; safetensors also by type.

    A .pt or .ckpt file is a pickle: it is opened only if allowed, and then only its tensors are loaded.
    """
    if path.suffix == ".safetensors":
        check_safetensors(model, path)
    elif allow_pickle:
        compare_shapes(model, pickled_shapes(model, path), path)
    else:
        raise FileProblem(
            f"{path} is a pickle, which may run code when opened; give a safetensors file, or add --allow-pickle"
        )


def check_safetensors(model: nn.Module, path: Path) -> None:
    """Compare the header's names, shapes and types with the model's."""
    try:
        with translate_os_errors(path), safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            dtypes = {name: part.get_dtype() for name, part in slices.items()}
    except SafetensorError as error:
        raise FileProblem(f"{path} is not a valid safetensors file ({error}); copy it again") from error
    compare_shapes(model, shapes, path)
    state = model.state_dict()
    for name, dtype in dtypes.items():
        if dtype != COMPLEX and (dtype not in NON_FLOAT_TYPES) != state[name].is_floating_point():
            raise FileProblem(
                f"{path}: weight {name} is {dtype}, the model's is {state[name].dtype}; the file is not of this model"
            )


def pickled_shapes(model: nn.Module, path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of a pickled state_dict by the model's names; tensors are created without data, no other code runs."""
    try:
        state_dict = torch.load(path, map_location="meta", weights_only=True)
    except (*FORWARD_ERRORS, OSError, EOFError) as error:
        raise FileProblem(
            f"{path} is not a checkpoint of tensors ({type(error).__name__}); save its state_dict again"
        ) from error
    except pickle.UnpicklingError as error:
        raise FileProblem(
            f"{path} holds objects other than tensors, which are not loaded; save its state_dict alone"
        ) from error
    for key in WRAPPER_KEYS:
        if isinstance(state_dict, dict) and isinstance(state_dict.get(key), dict):
            state_dict = state_dict[key]
    shapes = {}
    for name, tensor in state_dict.items():
        if isinstance(tensor, torch.Tensor):
            for prefix in WRAPPER_PREFIXES:
                if name.startswith(prefix) and name not in model.state_dict():
                    name = name.removeprefix(prefix)
            shapes[name] = tuple(tensor.shape)
    return shapes


def compare_shapes(model: nn.Module, shapes: dict[str, tuple[int, ...]], path: Path) -> None:
    """Raise FileProblem unless `shapes` are the model's. Of names that share storage, safetensors keeps only one."""
    state = model.state_dict(keep_vars=True)
    expected = {name: tuple(parameter.shape) for name, parameter in state.items()}
    names_by_storage: dict[int, set[str]] = {}
    for name, parameter in state.items():
        storage = parameter.data_ptr() if not parameter.is_meta else id(parameter)
        names_by_storage.setdefault(storage, set()).add(name)
    missing = set().union(*(names for names in names_by_storage.values() if not names & shapes.keys()))
    wrong = {name for name, shape in shapes.items() if shape != expected.get(name)} | missing
    if wrong:
        name = min(wrong)
        raise FileProblem(
            f"{path}: weight {name} has shape {shapes.get(name)}, the model's is {expected.get(name)}; "
            "the file is not of this model"
        )
