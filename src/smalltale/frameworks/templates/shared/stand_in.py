"""Replaces packages that a trainer imports but that training on text never uses."""

import sys
import types
from importlib.machinery import ModuleSpec


class Placeholder:
    """Any attribute of a stand-in module: has every attribute, accepts every call, and disappears as a base class or type."""

    def __getattr__(self, name: str) -> "Placeholder":
        if name.startswith("__"):
            raise AttributeError(name)
        return Placeholder()

    def __call__(self, *args, **kwargs) -> "Placeholder":
        return self

    def __mro_entries__(self, bases: tuple) -> tuple:
        return ()

    def __instancecheck__(self, instance) -> bool:
        return False

    def __subclasscheck__(self, subclass) -> bool:
        return False

    def __or__(self, right) -> "Placeholder":
        return self

    __ror__ = __or__


class StandIn(types.ModuleType):
    """A module that has every attribute."""

    __path__ = ()

    def __getattr__(self, name: str) -> Placeholder:
        if name.startswith("__"):
            raise AttributeError(name)
        return Placeholder()


class Finder:
    """Finds the packages and their submodules."""

    def __init__(self, packages: tuple[str, ...]) -> None:
        self.packages = packages

    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] in self.packages else None

    def create_module(self, spec):
        return StandIn(spec.name)

    def exec_module(self, module):
        pass


def stand_in_for(*packages: str) -> None:
    """Make imports of these packages succeed."""
    sys.meta_path.append(Finder(packages))
