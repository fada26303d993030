"""The hackathon's rules as data: weight classes, limits, dates. No other module repeats these numbers.

Input: an edition's TOML file, or nothing. Output: a frozen Rules.
Pitfall: days are calendar days Anywhere on Earth (AOE, UTC-12), not in the server's time zone.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

from pydantic import TypeAdapter, ValidationError

from smalltale.errors import RecipeError, SmalltaleError

AOE = timezone(timedelta(hours=-12), "AOE")
SERVER_TABLES = {"edition", "prompt_set"}
"""Tables of an edition's file that are not rules (server/editions/editions.py reads them)."""


LARGE_CLASS_HARDWARE = (
    "h200", "h100", "a100", "l40", "mi300", "5090", "4090", "3090", "a6000", "2x", "4x", "8x", "several", "multi",
)  # fmt: skip
MEDIUM_CLASS_HARDWARE = (
    "5080", "5070", "4080", "4070", "3080", "3070", "2080", "t4", "v100", "7900", "7800", " pro", " max", " ultra",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class WeightClass:
    """A division of the contest."""

    name: str
    max_parameters: int
    """Limit of counted parameters (counting/count.py), inclusive."""
    hardware: str


@dataclass(frozen=True, kw_only=True)
class HardwareClass:
    """Words in a team's declared hardware that assign it to a weight class."""

    weight_class: str
    words: tuple[str, ...]
    """Case-insensitive."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Rules of an edition; the defaults are those of the first."""

    weight_classes: tuple[WeightClass, ...] = (
        WeightClass(
            name="small", max_parameters=30_000_000, hardware="low to mid-range laptop GPUs, Apple Silicon"
        ),
        WeightClass(
            name="medium",
            max_parameters=60_000_000,
            hardware="mid-range GPUs, high-end laptops and Apple Silicon",
        ),
        WeightClass(name="large", max_parameters=120_000_000, hardware="high-end GPUs, several GPUs"),
    )
    criteria: tuple[str, ...] = ("grammar", "creativity", "consistency", "plot")
    """What the judge scores, in addition to the age group of the writer."""
    team_size: int = 2
    team_lock_days: int = 7
    """Days from the start in which teams may change."""
    completions_per_prompt: int = 4
    hand_ins_per_day: int = 1
    final_hand_ins: int = 1
    max_completion_characters: int = 8_000
    max_submission_bytes: int = 10_000_000
    hardware: tuple[HardwareClass, ...] = (
        HardwareClass(weight_class="large", words=LARGE_CLASS_HARDWARE),
        HardwareClass(weight_class="medium", words=MEDIUM_CLASS_HARDWARE),
    )
    """The first row with a word of the declared hardware decides; the smallest class if none has."""
    start: date = date(2025, 3, 1)
    end: date = date(2025, 4, 7)
    """The last day, Anywhere on Earth."""

    def weight_class(self, name: str) -> WeightClass:
        """The class of that name. Raises SmalltaleError for an unknown name."""
        class_by_name = {weight_class.name: weight_class for weight_class in self.weight_classes}
        if name not in class_by_name:
            raise SmalltaleError(f"unknown weight class {name!r}; choose one of: {', '.join(class_by_name)}")
        return class_by_name[name]

    def class_for(self, counted_parameters: int) -> WeightClass | None:
        """The smallest class that admits a model of this count; None if all are too small."""
        for weight_class in sorted(self.weight_classes, key=lambda row: row.max_parameters):
            if counted_parameters <= weight_class.max_parameters:
                return weight_class
        return None

    def class_for_hardware(self, declared: str) -> WeightClass:
        """The class that a team's declared hardware suggests; organisers confirm it."""
        padded = f" {declared.casefold()} "
        for row in self.hardware:
            if any(word.casefold() in padded for word in row.words):
                return self.weight_class(row.weight_class)
        return min(self.weight_classes, key=lambda weight_class: weight_class.max_parameters)

    def classes_open_to(self, assigned: str) -> list[WeightClass]:
        """The classes that a team of class `assigned` may enter: its own and every larger one."""
        own_limit = self.weight_class(assigned).max_parameters
        return [row for row in self.weight_classes if row.max_parameters >= own_limit]

    def opens(self) -> datetime:
        """Start of the edition in UTC: the first moment of `start` Anywhere on Earth."""
        return datetime(self.start.year, self.start.month, self.start.day, tzinfo=AOE).astimezone(UTC)

    def teams_lock(self) -> datetime:
        """Instant from which teams no longer change."""
        return self.opens() + timedelta(days=self.team_lock_days)

    def deadline(self) -> datetime:
        """End of the edition in UTC: the last moment of `end` Anywhere on Earth."""
        last_day = datetime(self.end.year, self.end.month, self.end.day, tzinfo=AOE)
        return last_day.astimezone(UTC) + timedelta(days=1)


def aoe_day(instant: datetime) -> date:
    """The calendar day of `instant` (timezone-aware) Anywhere on Earth."""
    return instant.astimezone(AOE).date()


def parse_rules(text: str, where: str) -> Rules:
    """Rules from the TOML text of an edition; its keys are the fields of Rules, with tables for weight classes and hardware.

    `where` names the text in messages. Raises RecipeError.
    """
    try:
        return rules_from_table(tomllib.loads(text), where)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{where} is not TOML: {error}; correct that line") from error


def rules_from_table(table: Mapping[str, Any], where: str) -> Rules:
    """Rules from an edition's table; [edition] and [[prompt_set]] belong to the server and are skipped. Raises RecipeError."""
    names = {field.name for field in fields(Rules)}
    for key in table:
        if key not in names | SERVER_TABLES:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise RecipeError(f"{where}: unknown rule {key!r}; {hint}valid rules: {', '.join(sorted(names))}")
    rule_values = {key: value for key, value in table.items() if key in names}
    try:
        rules = TypeAdapter(Rules).validate_python(rule_values)
    except ValidationError as error:
        first = error.errors()[0]
        location = ".".join(str(part) for part in first["loc"])
        raise RecipeError(
            f"{where}: {location} = {first['input']!r}: {first['msg']}; see docs/rules.md for the format"
        ) from error
    validate_rules(rules, where)
    return rules


def validate_rules(rules: Rules, where: str) -> None:
    """Raise RecipeError for rules that contradict themselves."""
    if rules.end < rules.start:
        raise RecipeError(f"{where}: end {rules.end} is before start {rules.start}; give a later end")
    if not rules.weight_classes or not rules.criteria:
        raise RecipeError(f"{where}: there must be at least one weight class and one criterion; add one")
    counts = ("team_size", "completions_per_prompt", "hand_ins_per_day", "final_hand_ins")
    for name in (*counts, "max_completion_characters"):
        if getattr(rules, name) < 1:
            raise RecipeError(f"{where}: {name} = {getattr(rules, name)}; it must be at least 1")
    names = {weight_class.name for weight_class in rules.weight_classes}
    for row in rules.hardware:
        if row.weight_class not in names:
            raise RecipeError(
                f"{where}: the hardware table names {row.weight_class!r}, which is not a weight class; use one of: {', '.join(sorted(names))}"
            )
