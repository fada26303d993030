"""Builds a model with a factory that the user names: `package.module:factory`.

Input: that name. Output: what the factory returns. This imports and runs the user's code.
"""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from smalltale.errors import SmalltaleError
from smalltale.model.architectures import FORWARD_ERRORS


def call_factory(name: str) -> Any:
    """What `package.module:factory` returns if it is called without arguments. Raises SmalltaleError if it fails."""
    module_name, _, attribute_path = name.partition(":")
    try:
        factory: Any = importlib.import_module(module_name)
        for attribute in attribute_path.split("."):
            factory = getattr(factory, attribute)
    except (*FORWARD_ERRORS, SyntaxError) as error:
        raise SmalltaleError(
            f"importing {name} failed ({type(error).__name__}: {error}); give package.module:factory, and set PYTHONPATH=. "
            "for a module in this folder"
        ) from error
    try:
        return factory()
    except FORWARD_ERRORS as error:
        raise SmalltaleError(
            f"calling {name}() failed ({type(error).__name__}: {error}); give a factory that needs no arguments"
        ) from error


def build_model_from_factory(name: str) -> nn.Module:
    """The torch module that `package.module:factory` returns. Raises SmalltaleError if it is another object."""
    model = call_factory(name)
    if not isinstance(model, nn.Module):
        raise SmalltaleError(f"{name}() returned a {type(model).__name__}; it must return a torch.nn.Module")
    return model
