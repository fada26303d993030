"""Stands in for torchvision, of which Composer and Streaming import names that training on text never uses."""

import sys
import types
from importlib.machinery import ModuleSpec

import torchmetrics  # noqa: F401  before the stand-in: it asks whether torchvision is there


class StandIn(types.ModuleType):
    """A module with every name asked of it, each an empty class."""

    __path__ = ()

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class Finder:
    """Finds torchvision and all that is below it."""

    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] == "torchvision" else None

    def create_module(self, spec):
        return StandIn(spec.name)

    def exec_module(self, module):
        pass


sys.meta_path.append(Finder())
