"""Rubrics: what a judge is asked and which answers count, as versioned YAML.

In: the name of a rubric that ships with smalltale, or a path. Out: a Rubric, whose hash goes into every judgement.
Beware: any change to a rubric changes its hash, so that judgements of two versions are never averaged by mistake.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import string
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import TypeAdapter, ValidationError

from smalltale.errors import SmalltaleError
from smalltale.files import read_text

CHECK = "check"
"""The key under which an answer echoes the request's nonce."""

PLACEHOLDERS = {
    "scores": frozenset({"delimiter", "prompt", "completion", "keys", "nonce"}),
    "pairwise": frozenset({"delimiter", "prompt", "first", "second", "keys", "nonce"}),
}


class RubricError(SmalltaleError):
    """A rubric is unknown, is not whole, or asks for what its answer cannot hold."""


@dataclass(frozen=True, kw_only=True)
class RubricField:
    """One key of the answer."""

    kind: Literal["words", "score", "choice"]
    low: int = 1
    high: int = 10
    """The ends of a score's scale; whole marks only."""
    weight: float = 1.0
    """A score's share in the overall score; 0 leaves it out."""
    choices: tuple[str, ...] = ()
    max_characters: int = 1200

    def schema(self) -> dict[str, Any]:
        """JSON schema of this key's value."""
        if self.kind == "score":
            return {"type": "integer", "minimum": self.low, "maximum": self.high}
        if self.kind == "choice":
            return {"type": "string", "enum": list(self.choices)}
        return {"type": "string", "maxLength": self.max_characters}

    def describe(self) -> str:
        """What a value must be, for the re-ask."""
        if self.kind == "score":
            return f"a whole number from {self.low} to {self.high}"
        if self.kind == "choice":
            return f"one of {', '.join(self.choices)}"
        return "text that is not empty"


@dataclass(frozen=True, kw_only=True)
class QualificationBar:
    """The bar a judge must reach to rank."""

    auc: float = 0.8
    """Least separation of each adjacent pair of gold levels."""
    spearman: float = 0.6
    """Least rank correlation with graded files."""
    retest: float = 0.8
    """Least correlation between two runs over the gold set."""
    attack_gain: float = 0.5
    """Most that any kind of attack may raise the mean, in marks."""


@dataclass(frozen=True, kw_only=True)
class Rubric:
    """A rubric as read. Keys of the answer come in the order of `fields`."""

    name: str
    version: int
    kind: Literal["scores", "pairwise"]
    about: str
    fields: Mapping[str, RubricField]
    system: str
    task: str
    max_answer_tokens: int = 700
    qualification: QualificationBar = field(default_factory=QualificationBar)

    @cached_property
    def criteria(self) -> dict[str, RubricField]:
        """The scored fields."""
        return {name: each for name, each in self.fields.items() if each.kind == "score"}

    @cached_property
    def hash(self) -> str:
        """Sixteen hex digits over everything that a judge sees or that decides what counts."""
        content = TypeAdapter(Rubric).dump_python(self, mode="json", exclude={"about", "qualification"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def schema(self) -> dict[str, Any]:
        """JSON schema of an answer."""
        properties = {CHECK: {"type": "string"}} | {name: each.schema() for name, each in self.fields.items()}
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    def overall(self, scores: Mapping[str, float]) -> float:
        """The weighted mean of a judgement's scores."""
        weights = {name: each.weight for name, each in self.criteria.items() if each.weight > 0}
        return sum(scores[name] * weight for name, weight in weights.items()) / sum(weights.values())


def rubric_names() -> list[str]:
    """The rubrics that ship with smalltale."""
    return sorted(
        each.name.removesuffix(".yaml")
        for each in package_files("smalltale.rubrics").iterdir()
        if each.name.endswith(".yaml")
    )


def load_rubric(name: str) -> Rubric:
    """A shipped rubric by name or any by path. Raises RubricError, FileProblem."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        text = read_text(Path(name))
    elif name in rubric_names():
        text = (package_files("smalltale.rubrics") / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        near = difflib.get_close_matches(name, rubric_names(), n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise RubricError(
            f"unknown rubric {name!r}; {hint}known: {', '.join(rubric_names())}, or a path to a .yaml file"
        )
    return parse_rubric(text, name)


def parse_rubric(text: str, shown: str) -> Rubric:
    """A rubric from YAML text. Raises RubricError."""
    try:
        table = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RubricError(
            f"rubric {shown} is not YAML: {' '.join(str(error).split())}; mend that line"
        ) from error
    if not isinstance(table, dict):
        raise RubricError(f"rubric {shown} holds no keys; begin from a copy of paper.yaml")
    known = [each.name for each in fields(Rubric)]
    for key in table:
        if key not in known:
            raise RubricError(f"rubric {shown} has the unknown key {key!r}; known: {', '.join(known)}")
    try:
        rubric = TypeAdapter(Rubric).validate_python(table)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RubricError(f"rubric {shown}: {where}: {first['msg']}; mend that value") from error
    check_rubric(rubric, shown)
    return rubric


def check_rubric(rubric: Rubric, shown: str) -> None:
    """Raise RubricError where a rubric asks for what its answer cannot hold."""
    if rubric.kind == "scores" and not any(each.weight > 0 for each in rubric.criteria.values()):
        raise RubricError(f"rubric {shown} has no field of kind score with a weight above 0; add one")
    if rubric.kind == "pairwise" and set(rubric.fields.get("better", RubricField(kind="words")).choices) != {
        "first",
        "second",
        "tie",
    }:
        raise RubricError(
            f"rubric {shown} is pairwise; it needs the field better with the choices first, second, tie"
        )
    if CHECK in rubric.fields:
        raise RubricError(f"rubric {shown} has a field {CHECK!r}, which the nonce takes; rename it")
    for name, each in rubric.fields.items():
        if each.kind == "score" and each.low >= each.high:
            raise RubricError(
                f"rubric {shown}: {name} goes from {each.low} to {each.high}; low must be below high"
            )
        if each.kind == "choice" and len(each.choices) < 2:
            raise RubricError(f"rubric {shown}: {name} has {len(each.choices)} choices; give at least 2")
        if each.weight < 0:
            raise RubricError(f"rubric {shown}: {name} has weight {each.weight}; weights are 0 or more")
    try:
        places = {place for _, place, _, _ in string.Formatter().parse(rubric.task) if place is not None}
    except ValueError as error:
        raise RubricError(
            f"rubric {shown}: the task is not a template ({error}); write {{{{ for a brace"
        ) from error
    needed = PLACEHOLDERS[rubric.kind]
    if places != needed:
        wrong = ", ".join(sorted(places ^ needed))
        raise RubricError(
            f"rubric {shown}: the task must name {', '.join(sorted(needed))} in braces, each and no other; check {wrong}"
        )
    text = f"{rubric.system} {rubric.task}".lower()
    for name in rubric.fields:
        if name.lower() not in text:
            raise RubricError(
                f"rubric {shown}: the field {name} is asked of no one; name it in system or task"
            )
    for name in requested_fields(rubric):
        if name not in rubric.fields:
            raise RubricError(f"rubric {shown} asks for {name!r}, which fields lacks; add it or leave it out")


def requested_fields(rubric: Rubric) -> list[str]:
    """Names that the system text asks for at the beginning of a line: `grammar: …`."""
    lines = (line.strip().partition(":") for line in rubric.system.splitlines())
    return [name for name, colon, _ in lines if colon and name.isidentifier() and name.islower()]
