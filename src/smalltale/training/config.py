"""The `[training]` section of a recipe, checked once.

In: a recipe's table. Out: a TrainingConfig.
Beware: what a run may change when it goes on is named in record.py; every other field is part of its fingerprint.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from smalltale.errors import RecipeError
from smalltale.training.optim import OptimConfig
from smalltale.training.schedule import ScheduleConfig


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a model is trained."""

    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(minutes=3))
    optim: OptimConfig = field(default_factory=OptimConfig)
    row_length: int = 256
    """Tokens a row; stories are packed whole into rows."""
    batch_tokens: int = 8192
    """Tokens an optimizer step, a multiple of `row_length`; halved where a time budget leaves too few steps."""
    micro_batch_tokens: int = 0
    """The most tokens a rank sends through the model at once; 0: as many as its memory takes."""
    dropout: float = 0.0
    """Share of features dropped where a layer adds to the stream; for texts that are read many times."""
    head_rows: int = 512
    """Rows of logits the loss holds at once."""
    device: str = "auto"
    compile: bool = True
    """Compile the model where the device profits."""
    seed: int = 0
    validation_stories: int = 100
    """Held-out stories that the running bits per byte are measured on."""
    evaluations: int = 4
    """How often in the run, evenly spread; the last at its end."""
    checkpoint_seconds: float = 60.0
    """Keep the run's state this often."""
    track: tuple[str, ...] = ()
    """Trackers beside metrics.jsonl: tensorboard, trackio, wandb (extra `track`)."""

    def __post_init__(self) -> None:
        for name in ("row_length", "batch_tokens", "head_rows"):
            if getattr(self, name) < 1:
                raise RecipeError(f"training.{name} = {getattr(self, name)}; it must be at least 1")
        for name in ("micro_batch_tokens", "validation_stories", "evaluations", "checkpoint_seconds", "seed"):
            if not 0 <= getattr(self, name) < 2**63:
                raise RecipeError(
                    f"training.{name} = {getattr(self, name)}; it must be at least 0 and below 2⁶³"
                )
        if self.batch_tokens % self.row_length:
            raise RecipeError(
                f"training.batch_tokens = {self.batch_tokens} must be a multiple of row_length = {self.row_length}"
            )
        if not 0 <= self.dropout < 1:
            raise RecipeError(f"training.dropout = {self.dropout} must be at least 0 and below 1")
