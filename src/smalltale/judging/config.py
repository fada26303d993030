"""The section [judging] of a recipe: sampling, retries, concurrency and budget.

Input: values from a recipe or --set. Output: a validated JudgingConfig.
Note: temperature, seed and logprobs are part of every cache key; after a change every question is asked again.
"""

from __future__ import annotations

from dataclasses import dataclass

from smalltale.errors import RecipeError
from smalltale.judging.judge import Sampling


@dataclass(frozen=True, kw_only=True)
class JudgingConfig:
    """Settings of a judging run."""

    temperature: float = 0.0
    """Sampling temperature of every judge, 0 to 2."""
    seed: int = 0
    """Sampling seed, sent with every request."""
    logprobs: bool = False
    """Request token probabilities, for scores weighted by them."""
    attempts: int = 5
    """Failed calls before a judgement ends in state error, at least 1. A call with a Retry-After does not count."""
    first_wait_seconds: float = 1.0
    """Wait after the first failed call without Retry-After; it doubles with each further one."""
    longest_wait_seconds: float = 600.0
    """Longest total time to honour Retry-After for one request."""
    concurrency: int = 0
    """Concurrent requests per judge; 0 uses the judge's default."""
    budget_dollars: float = 0.0
    """Most dollars to spend in one run; 0 sets no limit."""

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
    def sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature, seed=self.seed, logprobs=self.logprobs)
