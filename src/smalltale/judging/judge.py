"""The narrow door to any model that judges: a question in, a reply out.

In: a Question. Out: a Reply; or Busy, Broken, Rejected. Providers live behind it (endpoint, providers, local); so the
engine can be exchanged.
Beware: a judge makes one attempt; patience, re-asks and states are the caller's (asking.py), so that no two layers of
retries multiply.
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
    """One turn of the conversation with a judge."""

    role: Role
    content: str


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a judge's answer is drawn; part of every cache key."""

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
    """What the answer must echo."""


@dataclass(frozen=True, kw_only=True)
class TokenChoice:
    """One token of a reply and the most likely tokens in its place, with natural-log probabilities."""

    token: str
    top: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back."""

    text: str
    input_tokens: int = 0
    output_tokens: int = 0
    tokens: Sequence[TokenChoice] = ()
    refused: str = ""
    """Why the judge would not answer; empty where it did."""


class RateLimited(Exception):
    """The judge asks to wait (429, 503)."""

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class AttemptFailed(Exception):
    """One attempt failed: a time-out, a 500, a cut connection, a reply that is no reply."""


class RequestRejected(Exception):
    """The judge does not take this request (400, 413, 422): too long for it, against its rules, or with keys it lacks."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.by_content_policy = bool(CONTENT_POLICY.search(message))
        """Whether it is the text that it does not want to read."""


class JudgeUnusable(SmalltaleError):
    """No call to this judge can succeed: a wrong key, an unknown model. Stops the run."""


class Judge(Protocol):
    """Anything that answers questions."""

    @property
    def name(self) -> str:
        """As it appears in judgements and reports."""
        ...

    @property
    def endpoint(self) -> str:
        """Where it answers, for cache keys; never holds a secret."""
        ...

    @property
    def concurrency(self) -> int:
        """Requests at once."""
        ...

    async def answer(self, question: Question) -> Reply:
        """One attempt. Raises Busy, Broken, Rejected, JudgeUnusable."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


@dataclass
class ScriptedJudge:
    """A judge for tests and rehearsals: a function of the question. Never a judge of quality."""

    script: Callable[[Question], str | Reply]
    name: str = "scripted"
    endpoint: str = "scripted:"
    concurrency: int = 8
    questions: list[Question] = field(default_factory=list)

    async def answer(self, question: Question) -> Reply:
        self.questions.append(question)
        said = self.script(question)
        if isinstance(said, Reply):
            return said
        words = sum(len(message.content) for message in question.messages)
        return Reply(text=said, input_tokens=words // 4, output_tokens=len(said) // 4)

    async def close(self) -> None:
        pass


def draw_scripted_answer(question: Question) -> str:
    """A script that answers any rubric: draws by the text's hash, the same every time."""
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
