"""A judge behind any OpenAI-compatible endpoint: vLLM, SGLang, llama.cpp, Ollama, OpenAI, OpenRouter.

Input: a base URL and a model. Output: a Judge that makes one attempt per call.
Note: the API key appears in no file, message or cache key.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from smalltale.errors import MissingExtra
from smalltale.judging.judge import (
    AttemptFailed,
    Judge,
    JudgeUnusable,
    Question,
    RateLimited,
    Reply,
    RequestRejected,
    TokenChoice,
)

if TYPE_CHECKING:
    import httpx

TOP_LOGPROBS = 20


@dataclass
class EndpointJudge:
    """Chat completions over HTTP with a JSON schema for the answer."""

    base_url: str
    model: str
    name: str = ""
    endpoint: str = ""
    api_key: str = field(default="", repr=False)
    concurrency: int = 16
    timeout_seconds: float = 120.0
    """Time limit of one attempt, including the time to receive the body."""
    extra_body: Callable[[Question], Mapping[str, Any]] | None = None
    """Server-specific keys, added to every request."""
    client: httpx.AsyncClient | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.base_url = self.base_url.rstrip("/")
        self.name = self.name or self.model
        self.endpoint = self.endpoint or self.base_url

    async def answer(self, question: Question) -> Reply:
        """One POST. Raises RateLimited, AttemptFailed, RequestRejected, JudgeUnusable."""
        import httpx

        try:
            async with asyncio.timeout(self.timeout_seconds):
                response = await self.open_client().post(
                    f"{self.base_url}/chat/completions", json=self.build_request_body(question)
                )
        except TimeoutError as error:
            raise AttemptFailed(f"no complete answer in {self.timeout_seconds:g} s") from error
        except httpx.ConnectError as error:
            raise AttemptFailed(f"cannot connect to {self.base_url}: {error}") from error
        except httpx.HTTPError as error:
            raise AttemptFailed(f"the connection broke: {type(error).__name__} {error}".strip()) from error
        if response.status_code != 200:
            raise exception_for_status(self, response.status_code, response.text, response.headers)
        return parse_chat_completion(response.content)

    def open_client(self) -> httpx.AsyncClient:
        """The HTTP client, opened at the first call. Raises MissingExtra."""
        if self.client is None:
            try:
                import httpx
            except ImportError as error:
                raise MissingExtra("httpx", "judge", "a judge over HTTP") from error
            headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
            limits = httpx.Limits(
                max_connections=self.concurrency, max_keepalive_connections=self.concurrency
            )
            self.client = httpx.AsyncClient(
                headers=headers, limits=limits, timeout=httpx.Timeout(self.timeout_seconds), trust_env=False
            )
        return self.client

    def build_request_body(self, question: Question) -> dict[str, Any]:
        """The JSON body of a request."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": message.role, "content": message.content} for message in question.messages],
            "max_tokens": question.max_tokens,
            "temperature": question.sampling.temperature,
            "seed": question.sampling.seed,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "judgement", "strict": True, "schema": question.schema},
            },
        }
        if question.sampling.logprobs:
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        if self.extra_body is not None:
            body |= self.extra_body(question)
        return body

    async def close(self) -> None:
        client, self.client = self.client, None
        if client is not None:
            await client.aclose()


def exception_for_status(judge: Judge, status: int, body: str, headers: Mapping[str, str]) -> Exception:
    """The exception for an HTTP error status."""
    text = " ".join(body[:200].split())
    if status in {401, 403}:
        return JudgeUnusable(
            f"judge {judge.name}: {judge.endpoint} refuses the API key (HTTP {status}); set the right key in the environment"
        )
    if status == 404:
        return JudgeUnusable(
            f"judge {judge.name}: {judge.endpoint} does not know the model (HTTP 404: {text}); check its name"
        )
    if status in {429, 503, 529}:
        return RateLimited(f"HTTP {status}", retry_after_seconds(headers))
    message = f"HTTP {status}: {text}".removesuffix(": ")
    if status in {400, 413, 422}:
        return RequestRejected(f"the judge rejects the request ({message})")
    return AttemptFailed(message)


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """The Retry-After of a response in seconds; OpenAI's retry-after-ms has precedence."""
    milliseconds = parse_retry_after(headers.get("retry-after-ms"))
    return milliseconds / 1000 if milliseconds is not None else parse_retry_after(headers.get("retry-after"))


def parse_retry_after(value: str | None) -> float | None:
    """Seconds until the number or date of a Retry-After header; None if it is missing or invalid."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def parse_chat_completion(content: bytes) -> Reply:
    """Parse the body of a chat completion. Raises AttemptFailed if it is not one."""
    try:
        value = json.loads(content)
        choice = value["choices"][0]
        message = choice["message"]
        text = message.get("content")
        usage = value.get("usage") or {}
        refused = message.get("refusal") or ""
        if choice.get("finish_reason") == "content_filter":
            refused = refused or "the provider's filter stopped the answer"
        return Reply(
            text=text if isinstance(text, str) else "",
            input_tokens=int(usage.get("prompt_tokens") or 0),
            output_tokens=int(usage.get("completion_tokens") or 0),
            tokens=tuple(parse_token(entry) for entry in (choice.get("logprobs") or {}).get("content") or ()),
            refused=str(refused),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise AttemptFailed(
            f"the endpoint's answer is not a chat completion ({type(error).__name__})"
        ) from error


def parse_token(entry: Mapping[str, Any]) -> TokenChoice:
    """One token and its likeliest alternatives."""
    top = {choice["token"]: float(choice["logprob"]) for choice in entry.get("top_logprobs") or ()}
    return TokenChoice(token=entry["token"], top=top)
