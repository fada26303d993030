"""The hackathon's rules as data: weight classes, limits, dates. Nothing else in smalltale writes these numbers.

In: an edition's TOML file, or nothing. Out: a frozen Rules.
Beware: days are counted Anywhere on Earth (AOE, UTC-12), not in the server's zone.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

from smalltale.errors import RecipeError, SmalltaleError
from smalltale.files import read_text

AOE = timezone(timedelta(hours=-12), "AOE")


@dataclass(frozen=True, kw_only=True)
class WeightClass:
    """One division of the contest."""

    name: str
    max_parameters: int
    """Counted parameters (model/count.py), inclusive."""
    hardware: str


@dataclass(frozen=True, kw_only=True)
class Rules:
    """One edition's rules; the defaults are the first edition's."""

    weight_classes: tuple[WeightClass, ...] = (
        WeightClass(name="small", max_parameters=30_000_000, hardware="low to mid-range laptop GPUs, Apple Silicon"),
        WeightClass(name="medium", max_parameters=60_000_000, hardware="mid-range GPUs, high-end laptops and Apple Silicon"),
        WeightClass(name="large", max_parameters=120_000_000, hardware="high-end GPUs, several GPUs"),
    )
    criteria: tuple[str, ...] = ("grammar", "creativity", "consistency", "plot")
    """What the judge scores, beside the age group of the writer."""
    team_size: int = 2
    team_lock_days: int = 7
    """Teams are formed and declared within this many days of the start."""
    completions_per_prompt: int = 4
    hand_ins_per_day: int = 1
    final_hand_ins: int = 1
    max_completion_characters: int = 8_000
    max_submission_bytes: int = 10_000_000
    start: date = field(default=date(2025, 3, 1))
    end: date = field(default=date(2025, 4, 7))
    """The last day, Anywhere on Earth."""

    def weight_class(self, name: str) -> WeightClass:
        """The class of that name. Raises SmalltaleError for an unknown one."""
        for weight_class in self.weight_classes:
            if weight_class.name == name:
                return weight_class
        known = ", ".join(weight_class.name for weight_class in self.weight_classes)
        raise SmalltaleError(f"there is no weight class {name!r}; choose one of: {known}")

    def class_for(self, counted_parameters: int) -> WeightClass | None:
        """The smallest class that admits so many counted parameters, None above all of them."""
        for weight_class in sorted(self.weight_classes, key=lambda each: each.max_parameters):
            if counted_parameters <= weight_class.max_parameters:
                return weight_class
        return None

    def deadline(self) -> datetime:
        """The instant the edition ends, in UTC: the last moment of `end` Anywhere on Earth."""
        return datetime(self.end.year, self.end.month, self.end.day, tzinfo=AOE).astimezone(UTC) + timedelta(days=1)


def aoe_day(instant: datetime) -> date:
    """The calendar day of `instant` (timezone-aware) Anywhere on Earth."""
    return instant.astimezone(AOE).date()


def read_rules(path: Path) -> Rules:
    """An edition's rules from TOML; keys are the fields of Rules, weight classes are tables. Raises RecipeError."""
    try:
        table = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path} is not TOML: {error}; mend that line") from error
    known = {each.name for each in fields(Rules)}
    for key in table:
        if key not in known:
            raise RecipeError(f"{path}: unknown rule {key!r}; the rules are: {', '.join(sorted(known))}")
    try:
        if "weight_classes" in table:
            table["weight_classes"] = tuple(WeightClass(**each) for each in table["weight_classes"])
        if "criteria" in table:
            table["criteria"] = tuple(table["criteria"])
        return Rules(**table)
    except TypeError as error:
        raise RecipeError(f"{path}: {error}; see docs/rules.md for the form of each rule") from error
