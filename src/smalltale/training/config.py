"""The `[training]` section of a recipe, validated when it is built.

Input: a recipe's table. Output: a TrainingConfig.
Note: run_record.py names the fields that may change when a run resumes; all others are part of its fingerprint.
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
    """Tokens per row; complete stories are packed into rows."""
    batch_tokens: int = 8192
    """Tokens per optimizer step, a multiple of `row_length`; halved if a time budget allows too few steps."""
    micro_batch_tokens: int = 0
    """Upper limit of tokens per forward pass on one rank; 0: as many as fit in memory."""
    dropout: float = 0.0
    """Share of features dropped where a layer adds to the residual stream; for texts that are read many times."""
    head_rows: int = 512
    """Rows of logits that the loss keeps in memory at once."""
    device: str = "auto"
    compile: bool = True
    """Compile the model on devices where this is faster."""
    seed: int = 0
    validation_stories: int = 100
    """Held-out stories for the bits per byte measured during training."""
    evaluations: int = 4
    """Number of evaluations, evenly spread over the run; the last is at its end."""
    checkpoint_seconds: float = 60.0
    """Seconds between two saves of the run's state."""
    track: tuple[str, ...] = ()
    """Trackers in addition to metrics.jsonl: tensorboard, trackio, wandb (extra `track`)."""

    def __post_init__(self) -> None:
        for name in ("row_length", "batch_tokens", "head_rows"):
            if (setting := getattr(self, name)) < 1:
                raise RecipeError(f"training.{name} = {setting}; it must be at least 1")
        for name in ("micro_batch_tokens", "validation_stories", "evaluations", "checkpoint_seconds", "seed"):
            if not 0 <= (setting := getattr(self, name)) < 2**63:
                raise RecipeError(f"training.{name} = {setting}; it must be at least 0 and below 2⁶³")
        if self.batch_tokens % self.row_length:
            raise RecipeError(
                f"training.batch_tokens = {self.batch_tokens} must be a multiple of row_length = {self.row_length}"
            )
        if not 0 <= self.dropout < 1:
            raise RecipeError(f"training.dropout = {self.dropout} must be at least 0 and below 1")
