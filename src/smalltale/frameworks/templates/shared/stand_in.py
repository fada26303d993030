"""Stands in for packages that a trainer imports and that training on text never uses."""

import sys
import types
from importlib.machinery import ModuleSpec


class Anything:
    """Every name of a stand-in: it has every attribute, takes every call, and as a base or a type it is not there."""

    def __getattr__(self, name: str) -> "Anything":
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()

    def __call__(self, *given, **named) -> "Anything":
        return self

    def __mro_entries__(self, bases: tuple) -> tuple:
        return ()

    def __instancecheck__(self, instance) -> bool:
        return False

    def __subclasscheck__(self, subclass) -> bool:
        return False

    def __or__(self, other) -> "Anything":
        return self

    __ror__ = __or__


class StandIn(types.ModuleType):
    """A module with every name."""

    __path__ = ()

    def __getattr__(self, name: str) -> Anything:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()


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
