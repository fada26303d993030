"""What `smalltale count` can be pointed at, as a module.

In: a recipe's config, a checkpoint folder of ours, a Hugging Face folder, `package.module:factory`, a checkpoint file with
its factory. Out: a module, on the meta device where no weight is needed.
Beware: no code of a folder is run, and no pickle opened, unless the caller says so.
"""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from smalltale.errors import SmalltaleError
from smalltale.model.architectures import FORWARD_ERRORS

PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")


def model_of_factory(name: str) -> nn.Module:
    """What `package.module:factory` makes, called without arguments. It runs that code."""
    module_name, _, attribute = name.partition(":")
    try:
        factory: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            factory = getattr(factory, part)
    except (*FORWARD_ERRORS, SyntaxError) as error:
        raise SmalltaleError(
            f"importing {name} failed ({type(error).__name__}: {error}); give package.module:factory, importable from here"
        ) from error
    try:
        made = factory()
    except FORWARD_ERRORS as error:
        raise SmalltaleError(
            f"calling {name}() failed ({type(error).__name__}: {error}); a factory takes no argument, "
            "so write one that fills in the model's own"
        ) from error
    if not isinstance(made, nn.Module):
        raise SmalltaleError(f"{name}() gave a {type(made).__name__}; it must give a torch.nn.Module")
    return made
