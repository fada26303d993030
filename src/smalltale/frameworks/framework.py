"""What a framework is to smalltale: files it trains from, and a checkpoint read back.

In: a token folder and a Plan. Out: an export folder; from a checkpoint, a Native.
Beware: no framework is imported here or in any module beside: each lives in an environment of its own (install.py).
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
from smalltale.tokens.shards import TokenFolder

MODULES = {
    "nanogpt": "nanogpt",
    "trainer": "trainer",
    "accelerate": "accelerate",
    "lightning": "lightning",
    "fastai": "fastai",
    "litgpt": "litgpt",
    "axolotl": "axolotl",
    "composer": "composer",
    "llmfoundry": "llmfoundry",
    "fastxtend": "fastxtend",
    "blurr": "blurr",
    "mlx": "mlx",
    "llama2c": "llama2c",
}
"""Each framework's name and its module: the rules' eleven, then two further ways out."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The model and the run that an exported recipe describes."""

    vocabulary: int
    layers: int
    width: int
    heads: int
    context: int = 512
    batch_rows: int = 32
    """Rows of `context` tokens in a step."""
    steps: int = 5000
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("vocabulary", "layers", "width", "heads", "context", "batch_rows", "steps"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} = {getattr(self, name)} must be at least 1")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise RecipeError(
                f"a width of {self.width} does not divide into {self.heads} heads of an even width"
            )

    @property
    def hidden(self) -> int:
        """Features inside a gated feed-forward part: 8/3 of the width, in thirty-twos."""
        return max(32, round(self.width * 8 / 3 / 32) * 32)

    @property
    def warmup_steps(self) -> int:
        return max(1, self.steps // 50)


@dataclass(frozen=True, kw_only=True)
class Export:
    """What a framework's `export` is given."""

    tokens: TokenFolder
    plan: Plan
    tokenizer: Path
    """A tokenizer folder."""
    out: Path
    """The folder to fill, empty."""


@dataclass(frozen=True, kw_only=True)
class Native:
    """A checkpoint as the framework kept it, with its own names gone only where our reader has others."""

    config: dict[str, Any]
    """The config.json to write: Hugging Face's, or the architecture nanogpt."""
    weights: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Framework:
    """One way out and back."""

    name: str
    title: str
    export: Callable[[Export], None]
    """Write data, recipe and scripts into an empty folder."""
    read: Callable[[Path, bool], Native] | None
    """(checkpoint, whether pickles may be opened) -> the model. None where there is no way back."""
    train: tuple[str, ...]
    """Shell lines, run in the export folder, that train and leave the checkpoint; `python` is the environment's own."""
    checkpoint: str
    """Where they leave it, relative to the export folder."""
    package: str | None
    """The distribution whose version is the framework's; None for a checkout."""
    needs_trust: bool = False
    """Its checkpoint is a pickle."""
    needs_checkout: str | None = None
    """The repository to clone, where the framework is no package; $NAME says where the checkout lies."""
    step_line: re.Pattern[str] | None = None
    """What it prints a step: the loss and the milliseconds; None where the recipe writes run.json itself."""
    names: Mapping[str, Any] = field(default_factory=dict)
    """Further names that its templates use."""
    cheap: bool = False
    """Whether CI proves it at every change."""


def framework(name: str) -> Framework:
    """The framework of that name. Raises SmalltaleError."""
    if name not in MODULES:
        raise SmalltaleError(f"unknown framework {name!r}; choose one of: {', '.join(MODULES)}")
    return cast(Framework, import_module(f"smalltale.frameworks.{MODULES[name]}").FRAMEWORK)


def every_framework() -> list[Framework]:
    return [framework(name) for name in MODULES]
