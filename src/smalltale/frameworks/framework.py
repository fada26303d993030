"""The interface of a training framework: it writes an export folder and reads a checkpoint back.

Export takes a token folder and an ExportPlan; import turns a checkpoint into an ImportedModel.
No framework is imported in this package: each runs in a virtual environment of its own (install.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from smalltale.errors import RecipeError, SmalltaleError
from smalltale.tokens.token_folder import TokenFolder

FRAMEWORK_NAMES = (
    "nanogpt", "trainer", "accelerate", "lightning", "fastai", "litgpt", "axolotl",
    "composer", "llmfoundry", "fastxtend", "blurr", "mlx", "llama2c",
)  # fmt: skip
"""The eleven of the rules, then two more; each is the name of a module of this package."""


@dataclass(frozen=True, kw_only=True)
class ExportPlan:
    """The model shape and the training run that an exported recipe describes."""

    vocabulary: int
    layers: int
    width: int
    heads: int
    context: int = 512
    batch_rows: int = 32
    """Rows of `context` tokens per step."""
    steps: int = 5000
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("vocabulary", "layers", "width", "heads", "context", "batch_rows", "steps"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} = {getattr(self, name)} must be at least 1")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise RecipeError(f"width {self.width} does not divide into {self.heads} heads of an even width")

    @property
    def hidden(self) -> int:
        """Width of the gated feed-forward layer: 8/3 of the model width, rounded to a multiple of 32."""
        return max(32, round(self.width * 8 / 3 / 32) * 32)

    @property
    def warmup_steps(self) -> int:
        return max(1, self.steps // 50)


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """Arguments of `Framework.export`."""

    tokens: TokenFolder
    plan: ExportPlan
    tokenizer: Path
    """The tokenizer folder."""
    out: Path
    """An empty folder to fill."""


@dataclass(frozen=True, kw_only=True)
class ImportedModel:
    """A checkpoint's config and weights, with weight names that our model classes load."""

    config: dict[str, Any]
    """The config.json to write: a Hugging Face config, or one of architecture nanogpt."""
    weights: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Framework:
    """How to export to, train with and import from one framework."""

    name: str
    title: str
    export: Callable[[ExportRequest], None]
    """Writes data, recipe and scripts into the empty folder `out`."""
    read: Callable[[Path, bool], ImportedModel] | None
    """(checkpoint, trust pickles) -> model. None if checkpoints cannot be imported."""
    train: tuple[str, ...]
    """Shell lines that train and write the checkpoint; they run in the export folder with the environment's `python`."""
    checkpoint: str
    """Path of the checkpoint, relative to the export folder."""
    package: str | None
    """The distribution that has the framework's version; None for a checkout."""
    needs_trust: bool = False
    """Whether its checkpoint is a pickle."""
    needs_checkout: str | None = None
    """The repository to clone if the framework is not a package; the variable $NAME is the path of the checkout."""
    step_line: re.Pattern[str] | None = None
    """Matches the line printed per step: loss and milliseconds. None if the recipe writes run.json itself."""
    names: Mapping[str, Any] = field(default_factory=dict)
    """Additional variables for its templates."""
    quick_to_prove: bool = False
    """Whether CI proves it on every change."""


def get_framework(name: str) -> Framework:
    """Look up a framework by name. Raises SmalltaleError."""
    if name not in FRAMEWORK_NAMES:
        raise SmalltaleError(f"unknown framework {name!r}; choose one of: {', '.join(FRAMEWORK_NAMES)}")
    return cast(Framework, import_module(f"smalltale.frameworks.{name}").FRAMEWORK)


def all_frameworks() -> list[Framework]:
    return [get_framework(name) for name in FRAMEWORK_NAMES]
