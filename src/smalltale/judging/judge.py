"""Judges: who is asked. One narrow protocol, so that the engine behind it can be exchanged.

In: a question and the schema of its answer. Out: a Reply, or a JudgeError.
Beware: retries happen here alone; the engine's own are turned off, because two layers multiply.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from smalltale.errors import MissingExtra, SmalltaleError


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A judge's raw answer."""

    text: str
    input_tokens: int = 0
    output_tokens: int = 0


class JudgeError(Exception):
    """The judge could not be reached or failed."""


class Judge(Protocol):
    """Whoever answers questions about stories."""

    name: str
    qualified: bool
    """Whether this judge has passed the gold set (judging/gold)."""

    async def ask(self, question: str, schema: dict[str, Any]) -> Reply:
        """The answer. Raises JudgeError."""


class ScriptedJudge:
    """A judge made of a function, for tests."""

    qualified = False

    def __init__(self, name: str, answer: Callable[[str], str]) -> None:
        self.name, self.answer = name, answer

    async def ask(self, question: str, schema: dict[str, Any]) -> Reply:
        return Reply(text=self.answer(question))


class EndpointJudge:
    """Any model that inspect_ai's providers reach, OpenAI-compatible endpoints among them."""

    qualified = False

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        max_tokens: int = 400,
        timeout_seconds: int = 120,
    ) -> None:
        try:
            from inspect_ai.model import GenerateConfig, get_model
        except ImportError as error:
            raise MissingExtra("inspect_ai", "judge", "an LLM judge") from error
        self.name = model
        self.config = GenerateConfig
        self.max_tokens, self.timeout_seconds = max_tokens, timeout_seconds
        try:
            self.model = get_model(model, base_url=base_url, api_key=api_key)
        except (ValueError, ImportError, RuntimeError) as error:
            raise SmalltaleError(
                f"the judge {model} cannot be used ({error}); check its name and its API key"
            ) from error

    async def ask(self, question: str, schema: dict[str, Any]) -> Reply:
        wanted = {
            "type": "json_schema",
            "json_schema": {"name": "judgement", "schema": schema, "strict": True},
        }
        config = self.config(
            max_tokens=self.max_tokens,
            temperature=0.0,
            seed=0,
            max_retries=0,
            timeout=self.timeout_seconds,
            # Sent as it is: the engine's own schema type loses minimum and maximum.
            extra_body={"response_format": wanted},
        )
        try:
            output = await self.model.generate(question, config=config)
        except Exception as error:
            raise JudgeError(f"{type(error).__name__}: {error}") from error
        usage = output.usage
        return Reply(
            text=output.completion,
            input_tokens=usage.input_tokens if usage else 0,
            output_tokens=usage.output_tokens if usage else 0,
        )
