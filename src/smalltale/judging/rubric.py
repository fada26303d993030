"""Rubrics: what a judge is asked, as versioned data.

In: a rubric's name or a YAML file. Out: a Rubric that makes the question and the answer's JSON schema.
Beware: the hash covers everything a judge sees, so a changed word is another rubric.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import yaml

from smalltale.errors import RecipeError
from smalltale.files import read_text

MARK_CHARACTERS = 12


@dataclass(frozen=True, kw_only=True)
class Rubric:
    """What is asked of a judge."""

    name: str
    version: int
    description: str
    criteria: dict[str, str]
    scale: tuple[int, int]
    ages: tuple[str, ...]
    age_meanings: str
    assessment_characters: int
    template: str

    @property
    def hash(self) -> str:
        """Of every field, 16 hex digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def question(self, prompt: str, completion: str, nonce: str) -> str:
        """The message to the judge. The marks around the texts are made of the nonce, so a story cannot close them."""
        return self.template.format(
            mark=f"={nonce}=",
            nonce=nonce,
            prompt=prompt,
            completion=completion,
            low=self.scale[0],
            high=self.scale[1],
            criteria="\n".join(f"- {name}: {meaning}" for name, meaning in self.criteria.items()),
            age_meanings=self.age_meanings,
            keys=", ".join(self.criteria),
        )

    def schema(self) -> dict[str, Any]:
        """The JSON schema of an answer."""
        low, high = self.scale
        score = {"type": "integer", "minimum": low, "maximum": high}
        properties: dict[str, Any] = {
            "nonce": {"type": "string", "maxLength": MARK_CHARACTERS},
            "assessment": {"type": "string", "maxLength": self.assessment_characters},
            **dict.fromkeys(self.criteria, score),
            "age": {"type": "string", "enum": list(self.ages)},
        }
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }


def load_rubric(name: str) -> Rubric:
    """A shipped rubric by name, or any by path. Raises RecipeError where its parts do not fit."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        text = read_text(Path(name))
    else:
        shipped = sorted(
            each.name.removesuffix(".yaml")
            for each in package_files("smalltale.rubrics").iterdir()
            if each.name.endswith(".yaml")
        )
        if name not in shipped:
            raise RecipeError(
                f"there is no rubric {name!r}; choose one of: {', '.join(shipped)}, or give a .yaml file"
            )
        text = (package_files("smalltale.rubrics") / f"{name}.yaml").read_text(encoding="utf-8")
    try:
        table = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"rubric {name} is not YAML ({error}); mend that line") from error
    known = {each.name for each in fields(Rubric)}
    if not isinstance(table, dict) or set(table) != known:
        found = sorted(set(table or ()) ^ known) if isinstance(table, dict) else "no table"
        raise RecipeError(
            f"rubric {name} has missing or unknown keys {found}; it needs {', '.join(sorted(known))}"
        )
    rubric = Rubric(**{**table, "scale": tuple(table["scale"]), "ages": tuple(map(str, table["ages"]))})
    try:
        rubric.question("a", "b", "c")
    except (KeyError, IndexError, ValueError) as error:
        raise RecipeError(
            f"rubric {name}: its template asks for {error}, which a rubric does not give; see rubrics/paper.yaml"
        ) from error
    return rubric
