"""A judge behind any provider of inspect_ai, of which only the model calls are used.

Input: a model name of inspect_ai. Output: a Judge that makes one attempt per call.
Pitfall: inspect_ai has two layers of retries that multiply, so both are off here (its own and the client's); the schema
that it sends loses minimum and maximum, so judgement.py checks the answer against ours.
"""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from smalltale.errors import MissingExtra, SmalltaleError
from smalltale.judging.endpoint import exception_for_status
from smalltale.judging.judge import AttemptFailed, JudgeUnusable, Question, Reply, TokenChoice

API_KEY_VARIABLES = {
    "openai": "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
    "google": "GOOGLE_API_KEY",
    "openrouter": "OPENROUTER_API_KEY",
    "groq": "GROQ_API_KEY",
    "mistral": "MISTRAL_API_KEY",
    "together": "TOGETHER_API_KEY",
    "grok": "XAI_API_KEY",
}
WITHOUT_SEED = {"anthropic"}
WITH_LOGPROBS = {"openai", "google", "grok", "together", "vllm", "sglang", "openrouter", "openai-api"}


def provider_endpoint(name: str) -> str:
    """The provider and its base URL from the environment, without any secret in it."""
    provider, _, model = name.partition("/")
    service = model.partition("/")[0] if provider == "openai-api" else provider
    base = os.environ.get(f"{service.upper().replace('-', '_')}_BASE_URL", "")
    return f"inspect:{provider}" + (f":{re.sub('//[^/@]*@', '//', base)}" if base else "")


@dataclass
class ProviderJudge:
    """One model of inspect_ai."""

    name: str
    endpoint: str
    concurrency: int
    model: Any
    timeout_seconds: float = 120.0
    connected: bool = False
    """Whether a client is open in the current event loop; a closed one is replaced at the next call."""

    @classmethod
    def open(cls, name: str) -> ProviderJudge:
        """Open a model. Raises MissingExtra, or SmalltaleError for a missing key or an unknown provider, before any call."""
        if find_spec("inspect_ai") is None:
            raise MissingExtra("inspect_ai", "judge", f"the judge {name}")
        provider = name.partition("/")[0]
        key = API_KEY_VARIABLES.get(provider)
        if key is not None and not os.environ.get(key):
            raise SmalltaleError(f"judge {name} needs an API key; set the environment variable {key}")
        from inspect_ai.model import get_model

        try:
            model = get_model(name, memoize=False)
        except Exception as error:
            is_expected = isinstance(error, ValueError | ImportError | RuntimeError)
            if not is_expected and type(error).__name__ != "PrerequisiteError":
                raise
            raise SmalltaleError(
                f"judge {name} cannot be opened: {' '.join(str(error).split())[:300]}"
            ) from error
        return cls(name=name, endpoint=provider_endpoint(name), concurrency=8, model=model)

    async def answer(self, question: Question) -> Reply:
        """One attempt. Raises RateLimited, AttemptFailed, RequestRejected, JudgeUnusable."""
        if not self.connected:
            self.connect()
        try:
            async with asyncio.timeout(self.timeout_seconds):
                output = await self.model.generate(
                    to_inspect_messages(question), config=self.config(question)
                )
        except TimeoutError as error:
            raise AttemptFailed(f"no complete answer in {self.timeout_seconds:g} s") from error
        except Exception as error:
            raise translate_provider_error(self, error) from error
        return parse_model_output(output)

    def config(self, question: Question) -> Any:
        """A request's GenerateConfig. Raises JudgeUnusable."""
        from inspect_ai.model import GenerateConfig, ResponseSchema
        from inspect_ai.util import JSONSchema

        provider, logprobs = self.name.partition("/")[0], question.sampling.logprobs
        if logprobs and provider not in WITH_LOGPROBS:
            raise JudgeUnusable(
                f"judge {self.name}: {provider} returns no token probabilities; "
                "turn them off (--set judging.logprobs=false) or choose another judge"
            )
        return GenerateConfig(
            max_retries=0,
            max_tokens=question.max_tokens,
            temperature=question.sampling.temperature,
            seed=None if provider in WITHOUT_SEED else question.sampling.seed,
            logprobs=logprobs or None,
            top_logprobs=20 if logprobs else None,
            max_connections=self.concurrency,
            response_schema=ResponseSchema(
                name="judgement", json_schema=JSONSchema.model_validate(question.schema), strict=True
            ),
        )

    def connect(self) -> None:
        """Open a client in this event loop, with its own retries off."""
        self.model.api.initialize()
        client: Any = getattr(self.model.api, "client", None)
        if client is not None and hasattr(client, "max_retries"):
            client.max_retries = 0
        self.connected = True

    async def close(self) -> None:
        if self.connected:
            self.connected = False
            await self.model.api.aclose()


def to_inspect_messages(question: Question) -> list[Any]:
    """A question's messages as inspect_ai's."""
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser

    message_classes: dict[str, Any] = {
        "system": ChatMessageSystem,
        "user": ChatMessageUser,
        "assistant": ChatMessageAssistant,
    }
    return [message_classes[message.role](content=message.content) for message in question.messages]


def parse_model_output(output: Any) -> Reply:
    """A ModelOutput as a Reply. Raises AttemptFailed if it has no choices."""
    if not output.choices:
        raise AttemptFailed(f"an answer without choices ({output.error or 'no reason given'})")
    choice, usage = output.choices[0], output.usage
    entries = choice.logprobs.content if choice.logprobs is not None else ()
    return Reply(
        text=choice.message.text,
        input_tokens=usage.input_tokens if usage else 0,
        output_tokens=usage.output_tokens if usage else 0,
        tokens=[
            TokenChoice(token=entry.token, top={top.token: top.logprob for top in entry.top_logprobs or ()})
            for entry in entries
        ],
        refused="the provider's filter stopped the answer" if choice.stop_reason == "content_filter" else "",
    )


def translate_provider_error(judge: ProviderJudge, error: Exception) -> Exception:
    """A provider's exception as one of ours. inspect_ai may wrap the client's exception, so its causes are searched."""
    cause: BaseException | None = error
    while cause is not None:
        status = getattr(cause, "status_code", None) or getattr(cause, "code", None)
        if isinstance(status, int):
            headers = getattr(getattr(cause, "response", None), "headers", {}) or {}
            return exception_for_status(judge, status, str(cause), headers)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, SmalltaleError):
        return error
    return AttemptFailed(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
