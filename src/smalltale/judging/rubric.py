"""Rubrics: the instructions for a judge and the schema of its answer, as versioned YAML.

Input: the name of a shipped rubric, or a path. Output: a Rubric, whose hash is part of every judgement.
Note: every change to what a judge sees changes the hash, so that judgements of two versions are never averaged.
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
"""The answer's key for the request's nonce."""

PLACEHOLDERS = {
    "scores": frozenset({"delimiter", "prompt", "completion", "keys", "nonce"}),
    "pairwise": frozenset({"delimiter", "prompt", "first", "second", "keys", "nonce"}),
}


class RubricError(SmalltaleError):
    """A rubric is unknown, incomplete or inconsistent."""


@dataclass(frozen=True, kw_only=True)
class RubricField:
    """One key of an answer."""

    kind: Literal["words", "score", "choice"]
    low: int = 1
    high: int = 10
    """Ends of a score's scale; scores are integers."""
    weight: float = 1.0
    """A score's weight in the overall score; 0 excludes it."""
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
        """The valid values, as a re-ask states them."""
        if self.kind == "score":
            return f"a whole number from {self.low} to {self.high}"
        if self.kind == "choice":
            return f"one of {', '.join(self.choices)}"
        return "text that is not empty"


@dataclass(frozen=True, kw_only=True)
class QualificationBar:
    """What a judge must reach to rank."""

    auc: float = 0.8
    """Least separation of each adjacent pair of gold levels."""
    spearman: float = 0.6
    """Least rank correlation with a graded file."""
    retest: float = 0.8
    """Least correlation between two runs over the gold set."""
    attack_gain: float = 0.5
    """Most points that any kind of attack may raise the mean."""


@dataclass(frozen=True, kw_only=True)
class Rubric:
    """A validated rubric. The answer's keys are in the order of `fields`."""

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
        return {name: field_ for name, field_ in self.fields.items() if field_.kind == "score"}

    @cached_property
    def hash(self) -> str:
        """Sixteen hex digits over everything that a judge sees and that validates or weighs its answer."""
        content = TypeAdapter(Rubric).dump_python(self, mode="json", exclude={"about", "qualification"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def schema(self) -> dict[str, Any]:
        """JSON schema of an answer."""
        properties = {CHECK: {"type": "string"}} | {
            name: field_.schema() for name, field_ in self.fields.items()
        }
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    def overall(self, scores: Mapping[str, float]) -> float:
        """The weighted mean of a judgement's scores."""
        weights = {name: field_.weight for name, field_ in self.criteria.items() if field_.weight > 0}
        return sum(scores[name] * weight for name, weight in weights.items()) / sum(weights.values())


def rubric_names() -> list[str]:
    """Names of the rubrics that ship with smalltale."""
    return sorted(
        path.name.removesuffix(".yaml")
        for path in package_files("smalltale.rubrics").iterdir()
        if path.name.endswith(".yaml")
    )


def load_rubric(name: str) -> Rubric:
    """Load a shipped rubric by name, or any rubric by path. Raises RubricError, FileProblem."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        text = read_text(Path(name))
    elif name in rubric_names():
        text = (package_files("smalltale.rubrics") / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        similar = difflib.get_close_matches(name, rubric_names(), n=1, cutoff=0.4)
        hint = f"did you mean {similar[0]!r}? " if similar else ""
        raise RubricError(
            f"unknown rubric {name!r}; {hint}known: {', '.join(rubric_names())}, or a path to a .yaml file"
        )
    return parse_rubric(text, name)


def parse_rubric(text: str, source: str) -> Rubric:
    """Parse and validate YAML text; `source` names it in errors. Raises RubricError."""
    try:
        table = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RubricError(
            f"rubric {source} is not YAML: {' '.join(str(error).split())}; fix that line"
        ) from error
    if not isinstance(table, dict):
        raise RubricError(f"rubric {source} has no keys; start from a copy of paper.yaml")
    known_keys = [attribute.name for attribute in fields(Rubric)]
    for key in table:
        if key not in known_keys:
            raise RubricError(f"rubric {source} has the unknown key {key!r}; known: {', '.join(known_keys)}")
    try:
        rubric = TypeAdapter(Rubric).validate_python(table)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RubricError(f"rubric {source}: {where}: {first['msg']}; fix that value") from error
    check_rubric(rubric, source)
    return rubric


def check_rubric(rubric: Rubric, source: str) -> None:
    """Raise RubricError if fields, instructions and placeholders do not fit together."""
    if rubric.kind == "scores" and not any(criterion.weight > 0 for criterion in rubric.criteria.values()):
        raise RubricError(f"rubric {source} has no field of kind score with a weight above 0; add one")
    if rubric.kind == "pairwise" and set(rubric.fields.get("better", RubricField(kind="words")).choices) != {
        "first",
        "second",
        "tie",
    }:
        raise RubricError(
            f"rubric {source} is pairwise; it needs the field better with the choices first, second, tie"
        )
    if CHECK in rubric.fields:
        raise RubricError(f"rubric {source} has a field {CHECK!r}, which the nonce takes; rename it")
    for name, field_ in rubric.fields.items():
        if field_.kind == "score" and field_.low >= field_.high:
            raise RubricError(
                f"rubric {source}: {name} goes from {field_.low} to {field_.high}; low must be below high"
            )
        if field_.kind == "choice" and len(field_.choices) < 2:
            raise RubricError(f"rubric {source}: {name} has {len(field_.choices)} choices; give at least 2")
        if field_.weight < 0:
            raise RubricError(f"rubric {source}: {name} has weight {field_.weight}; weights are 0 or more")
    try:
        placeholders = {name for _, name, _, _ in string.Formatter().parse(rubric.task) if name is not None}
    except ValueError as error:
        raise RubricError(
            f"rubric {source}: the task is not a template ({error}); write {{{{ for a brace"
        ) from error
    needed = PLACEHOLDERS[rubric.kind]
    if placeholders != needed:
        wrong = ", ".join(sorted(placeholders ^ needed))
        raise RubricError(
            f"rubric {source}: the task must name {', '.join(sorted(needed))} in braces and no others; check {wrong}"
        )
    text = f"{rubric.system} {rubric.task}".lower()
    for name in rubric.fields:
        if name.lower() not in text:
            raise RubricError(
                f"rubric {source}: neither system nor task asks for the field {name}; name it in one of them"
            )
    for name in requested_fields(rubric):
        if name not in rubric.fields:
            raise RubricError(
                f"rubric {source} asks for {name!r}, which fields lacks; add it there or remove it"
            )


def requested_fields(rubric: Rubric) -> list[str]:
    """Field names at the beginning of a line of the system text: `grammar: …`."""
    lines = (line.strip().partition(":") for line in rubric.system.splitlines())
    return [name for name, colon, _ in lines if colon and name.isidentifier() and name.islower()]
