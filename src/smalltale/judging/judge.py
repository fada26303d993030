"""The Judge protocol: a question in, a reply out. Implementations: endpoint.py, providers.py, local.py.

Input: a Question. Output: a Reply, or RateLimited, AttemptFailed, RequestRejected, JudgeUnusable.
Note: a judge makes one attempt per call; ask.py alone retries and re-asks, so that layers of retries do not multiply.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from smalltale.errors import SmalltaleError

CONTENT_POLICY = re.compile(
    r"content[ _]?(?:filter|policy|management)|safety|moderation|usage policies", re.IGNORECASE
)
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One message of the conversation with a judge."""

    role: Role
    content: str


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Sampling settings of a judge; part of every cache key."""

    temperature: float = 0.0
    seed: int = 0
    logprobs: bool = False


@dataclass(frozen=True, kw_only=True)
class Question:
    """One request."""

    messages: Sequence[Message]
    schema: Mapping[str, Any]
    max_tokens: int
    sampling: Sampling
    nonce: str
    """Random digits that the answer must echo."""


@dataclass(frozen=True, kw_only=True)
class TokenChoice:
    """One token of a reply, and the likeliest tokens at its position with their natural-log probabilities."""

    token: str
    top: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """A judge's reply."""

    text: str
    input_tokens: int = 0
    output_tokens: int = 0
    tokens: Sequence[TokenChoice] = ()
    refused: str = ""
    """Why the judge refused to answer; empty if it answered."""


class RateLimited(Exception):
    """The judge asks to wait (429, 503)."""

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class AttemptFailed(Exception):
    """One attempt failed: a time-out, a 500, a broken connection, a malformed response."""


class RequestRejected(Exception):
    """The judge rejects this request (400, 413, 422): too long, against its content policy, or with unsupported keys."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.by_content_policy = bool(CONTENT_POLICY.search(message))
        """Whether its content policy rejects the text."""


class JudgeUnusable(SmalltaleError):
    """No call to this judge can succeed: wrong key, unknown model. Stops the run."""


class Judge(Protocol):
    """A model that answers questions."""

    @property
    def name(self) -> str:
        """Name in judgements and reports."""

    @property
    def endpoint(self) -> str:
        """Address, for cache keys; without secrets."""

    @property
    def concurrency(self) -> int:
        """Maximum concurrent requests."""

    async def answer(self, question: Question) -> Reply:
        """One attempt. Raises RateLimited, AttemptFailed, RequestRejected, JudgeUnusable."""

    async def close(self) -> None:
        """Close connections; the next answer opens new ones."""


@dataclass
class ScriptedJudge:
    """A judge for tests and dry runs: a function of the question, which does not measure quality."""

    script: Callable[[Question], str | Reply]
    name: str = "scripted"
    endpoint: str = "scripted:"
    concurrency: int = 8
    questions: list[Question] = field(default_factory=list)

    async def answer(self, question: Question) -> Reply:
        self.questions.append(question)
        reply = self.script(question)
        if isinstance(reply, Reply):
            return reply
        characters = sum(len(message.content) for message in question.messages)
        return Reply(text=reply, input_tokens=characters // 4, output_tokens=len(reply) // 4)

    async def close(self) -> None:
        pass


def draw_scripted_answer(question: Question) -> str:
    """A valid answer to any rubric, drawn from the text's hash: the same every time."""
    user = next(message.content for message in question.messages if message.role == "user")
    delimiter = user.partition("two lines ")[2].split(".")[0]
    text = user.split(f"\n{delimiter}\n")[1] if delimiter and f"\n{delimiter}\n" in user else user
    draw = random.Random(hashlib.sha256(text.encode()).digest())
    answer: dict[str, Any] = {}
    for name, schema in question.schema["properties"].items():
        if name == "check":
            answer[name] = question.nonce
        elif schema.get("type") == "integer":
            answer[name] = draw.randint(schema["minimum"], schema["maximum"])
        elif "enum" in schema:
            answer[name] = draw.choice(schema["enum"])
        else:
            answer[name] = "A script drew these marks; it has not read the story."
    return json.dumps(answer)
