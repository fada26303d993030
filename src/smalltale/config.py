"""Recipes: a TOML file and `--set section.key=value` overrides become the stages' config dataclasses.

Input: the name of a recipe that ships with smalltale, or a path, and overrides. Output: a Recipe whose sections are
read separately, so that a command imports only the stages it runs.
Note: defaults are in the dataclasses, next to the code that they configure; a recipe has only what differs from them or
from the recipe that it `extends`.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from smalltale.errors import RecipeError
from smalltale.files import read_text

SECTIONS = ("corpus", "tokenizer", "model", "training", "generation", "judging")
Config = TypeVar("Config")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe: its name, its weight class, and a table per section."""

    name: str
    weight_class: str
    tables: Mapping[str, Mapping[str, Any]]

    def section(self, name: str, config: type[Config]) -> Config:
        """The section as its dataclass. Raises RecipeError, for an unknown key with the nearest valid one."""
        table = self.tables.get(name, {})
        check_keys(table, config, f"[{name}] of recipe {self.name}")
        try:
            return TypeAdapter(config).validate_python(table)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in (name, *first["loc"]))
            raise RecipeError(
                f"recipe {self.name}: {key} = {first['input']!r}: {first['msg']}; correct that value"
            ) from error

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain data, for meta.json."""
        return {
            "name": self.name,
            "weight_class": self.weight_class,
            **{key: dict(value) for key, value in self.tables.items()},
        }


def recipe_names() -> list[str]:
    """Names of the recipes that ship with smalltale."""
    return sorted(
        file.name.removesuffix(".toml")
        for file in package_files("smalltale.recipes").iterdir()
        if file.name.endswith(".toml")
    )


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by name or path, with `section.key=value` overrides (values are TOML, or plain text).

    Raises RecipeError for an unknown recipe or section or an invalid override, FileProblem for a missing file.
    """
    table, shown = read_recipe(name)
    weight_class = table.pop("weight_class", "small")
    table.pop("description", None)
    for section, content in table.items():
        if section in SECTIONS and not isinstance(content, dict):
            raise RecipeError(f"{section} = {content!r} in recipe {shown} is not a table; write [{section}]")
        if section not in SECTIONS:
            description = f"section [{section}] in recipe {shown}"
            raise RecipeError(unknown_name_message(description, section, SECTIONS))
    for override in overrides:
        apply_override(table, override)
    return Recipe(name=shown, weight_class=weight_class, tables=table)


def read_recipe(name: str, children: tuple[str, ...] = ()) -> tuple[dict[str, Any], str]:
    """A recipe's table, merged over that of the recipe it `extends`, and the name to show."""
    if name in children:
        raise RecipeError(f"recipe {name} extends itself through {', '.join(children)}; remove one `extends`")
    if name.endswith(".toml") or "/" in name:
        text, shown = read_text(Path(name)), Path(name).stem
    elif name in recipe_names():
        text, shown = (package_files("smalltale.recipes") / f"{name}.toml").read_text(encoding="utf-8"), name
    else:
        raise RecipeError(unknown_name_message(f"recipe {name!r}", name, recipe_names()))
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"recipe {shown} is not TOML: {error}; correct that line") from error
    parent = table.pop("extends", None)
    if not isinstance(parent, str | None):
        raise RecipeError(f"extends = {parent!r} in recipe {shown} is not text; give a recipe's name or path")
    if parent is not None:
        table = merge_tables(read_recipe(parent, (*children, name))[0], table)
    return table, shown


def merge_tables(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Merge two tables recursively; values of `above` win."""
    merged = dict(below)
    for key, value in above.items():
        are_tables = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = merge_tables(below[key], value) if are_tables else value
    return merged


def check_keys(table: Mapping[str, Any], config: Any, where: str) -> None:
    """Raise RecipeError for a key that is not a field of `config` or of a dataclass inside it."""
    types = get_type_hints(config)
    names = [field.name for field in fields(config)]
    for key, value in table.items():
        if key not in names:
            raise RecipeError(unknown_name_message(f"key {key!r} in {where}", key, names))
        if is_dataclass(types[key]) and isinstance(value, dict):
            check_keys(value, types[key], f"{key} in {where}")


def apply_override(table: dict[str, Any], override: str) -> None:
    """Set one `section.key=value` in `table`."""
    path, equals, value = override.partition("=")
    section, *keys = path.strip().split(".")
    if not (equals and keys and all(keys)):
        raise RecipeError(
            f"--set {override!r} is not of the form section.key=value; write for example training.schedule.minutes=5"
        )
    if section not in SECTIONS:
        description = f"section {section!r} in --set {override!r}"
        raise RecipeError(unknown_name_message(description, section, SECTIONS))
    try:
        parsed = tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    inner = table.setdefault(section, {})
    for key in keys[:-1]:
        inner = inner.setdefault(key, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {override!r}: {key} is a value, not a table; remove the part after it")
    inner[keys[-1]] = parsed


def unknown_name_message(description: str, name: str, valid_names: Sequence[str]) -> str:
    """The message for an unknown name, with the nearest valid one."""
    near = difflib.get_close_matches(name, valid_names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {description}; {hint}valid names: {', '.join(valid_names)}"
