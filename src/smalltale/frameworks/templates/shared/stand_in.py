"""Stands in for packages that a trainer imports and that training on text never uses."""

import sys
import types
from importlib.machinery import ModuleSpec


class Anything(type):
    """The class of every name that is asked of a stand-in: it has every attribute and takes every call."""

    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything(name, (), {})

    def __call__(cls, *given, **named):
        return type.__call__(cls) if cls.__init__ is object.__init__ else type.__call__(cls, *given, **named)


class StandIn(types.ModuleType):
    """A module with every name."""

    __path__ = ()

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        # A call of what was made gives itself back, so that decorators pass.
        return Anything(name, (), {"__call__": lambda self, *given, **named: self})


class Finder:
    """Finds the packages and all that is below them."""

    def __init__(self, packages: tuple[str, ...]) -> None:
        self.packages = packages

    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] in self.packages else None

    def create_module(self, spec):
        return StandIn(spec.name)

    def exec_module(self, module):
        pass


def stand_in_for(*packages: str) -> None:
    """From now on, importing one of the packages succeeds."""
    sys.meta_path.append(Finder(packages))
