"""How judges are asked: the section [judging] of a recipe.

In: numbers from a recipe or --set. Out: a checked JudgingConfig.
Beware: temperature, seed and logprobs are part of every cache key; changing one asks everything anew.
"""

from __future__ import annotations

from dataclasses import dataclass

from smalltale.errors import RecipeError
from smalltale.judging.ask import RetryPolicy
from smalltale.judging.judge import Sampling


@dataclass(frozen=True, kw_only=True)
class JudgingConfig:
    """How a run asks."""

    temperature: float = 0.0
    """Of every judge's sampling, 0 to 2."""
    seed: int = 0
    """Sent with every request, and part of every cache key."""
    logprobs: bool = False
    """Ask for the probabilities of marks, for scores weighted by them."""
    attempts: int = 5
    """Failed calls for one answer before its judgement ends in error, at least 1."""
    first_wait_seconds: float = 1.0
    """Wait after a failed call where the judge asks for none; it doubles with each."""
    longest_wait_seconds: float = 600.0
    """How long one answer is waited for while its judge asks to wait (Retry-After)."""
    concurrency: int = 0
    """Requests at once to each judge; 0 leaves it to the judge."""
    budget_dollars: float = 0.0
    """Spend at most this much in one run; 0 sets no bound."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 2:
            raise RecipeError(f"judging.temperature = {self.temperature}; choose 0 to 2")
        if self.attempts < 1:
            raise RecipeError(f"judging.attempts = {self.attempts}; choose at least 1")
        if self.concurrency < 0:
            raise RecipeError(f"judging.concurrency = {self.concurrency}; choose 0 or more")
        for name in ("first_wait_seconds", "longest_wait_seconds", "budget_dollars"):
            if not getattr(self, name) >= 0:
                raise RecipeError(f"judging.{name} = {getattr(self, name)}; choose 0 or more")

    @property
    def retry_policy(self) -> RetryPolicy:
        return RetryPolicy(
            attempts=self.attempts,
            first_wait_seconds=self.first_wait_seconds,
            longest_wait_seconds=self.longest_wait_seconds,
        )

    @property
    def sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature, seed=self.seed, logprobs=self.logprobs)
