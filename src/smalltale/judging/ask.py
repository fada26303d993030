"""Ask one judge about one text: retries under a rate limit, one re-ask for an invalid answer, a final state.

Input: a judge, a rubric, texts. Output: an AskOutcome whose state is ok, unparsable, refused or error.
Note: this is the only layer that retries; a judge makes one attempt per call.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from smalltale.judging.config import JudgingConfig
from smalltale.judging.judge import (
    AttemptFailed,
    Judge,
    JudgeUnusable,
    Message,
    Question,
    RateLimited,
    Reply,
    RequestRejected,
    Sampling,
)
from smalltale.judging.judgement import Answer, InvalidAnswer, parse_answer
from smalltale.judging.logprob_scores import weighted_scores
from smalltale.judging.prompt_injection import derive_delimiter, derive_nonce, neutralise
from smalltale.judging.rubric import CHECK, Rubric
from smalltale.ranking.standings import State

log = logging.getLogger(__name__)

REFUSAL = re.compile(
    r"\A[^\w{]*(?:i['’]?m sorry|i am sorry|sorry|i apologi[sz]e|i can(?:['’]|no)?t|i['’]?m (?:not able|unable)|i am (?:not able|unable)|"
    r"i (?:won['’]?t|will not|must decline)|as an ai)\b",
    re.IGNORECASE,
)
MIN_WAIT_SECONDS = 0.05
"""Wait after a Retry-After of 0."""
MAX_REASK_QUOTE_CHARACTERS = 600
"""Length of the invalid answer that a re-ask quotes."""


@dataclass
class RateLimitedJudge:
    """A judge whose Retry-After pauses all concurrent requests of a run."""

    judge: Judge
    config: JudgingConfig
    resume_at: float = 0.0
    """Monotonic time before which no request is sent."""
    busy_reason: str = ""
    """The last rate-limit response."""

    async def request_with_retries(self, question: Question, outcome: AskOutcome) -> Reply | str:
        """A reply, or why all attempts failed; counts calls and tokens in `outcome`. Raises RequestRejected."""
        attempts, max_wait = self.config.attempts, self.config.longest_wait_seconds
        failures, reason, deadline = 0, "", time.monotonic() + max_wait
        while failures < attempts:
            while (wait := self.resume_at - time.monotonic()) > 0:
                if self.resume_at > deadline:
                    return f"{reason or self.busy_reason}: past the {max_wait:g} s limit for one request"
                await asyncio.sleep(wait)
            outcome.calls += 1
            try:
                reply = await self.judge.answer(question)
            except RateLimited as error:
                if error.retry_after_seconds is None:
                    failures += 1
                    wait = self.backoff_seconds(failures)
                else:
                    wait = max(error.retry_after_seconds, MIN_WAIT_SECONDS)
                reason = self.busy_reason = f"busy ({error}), asks to wait {round(wait, 2):g} s"
                self.resume_at = max(self.resume_at, time.monotonic() + wait)
            except AttemptFailed as error:
                failures, reason = failures + 1, str(error)
                if failures < attempts:
                    await asyncio.sleep(self.backoff_seconds(failures))
            else:
                outcome.input_tokens += reply.input_tokens
                outcome.output_tokens += reply.output_tokens
                return reply
        return f"{reason} ({attempts} attempts)"

    def backoff_seconds(self, failures: int) -> float:
        """The wait after a failed call: it doubles with each further one."""
        return min(self.config.first_wait_seconds * 2.0 ** (failures - 1), self.config.longest_wait_seconds)


@dataclass
class AskOutcome:
    """The final state of one question, and what it cost."""

    state: State = "error"
    answer: Answer | None = None
    weighted: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


async def ask(
    judge: RateLimitedJudge, rubric: Rubric, texts: Mapping[str, str], *, salt: str, key: str
) -> AskOutcome:
    """Ask about `texts`, which fill the rubric's placeholders: prompt and completion, or prompt, first and second.

    `salt` and `key` determine delimiter and nonce. Raises JudgeUnusable if logprobs are requested and the judge returns none.
    """
    nonce, sampling = derive_nonce(salt, key), judge.config.sampling
    question = build_question(rubric, texts, nonce, derive_delimiter(salt, key), sampling)
    outcome = AskOutcome()
    for attempt in range(2):
        try:
            reply = await judge.request_with_retries(question, outcome)
        except RequestRejected as error:
            outcome.state, outcome.reason = "refused" if error.by_content_policy else "error", str(error)
            return outcome
        if isinstance(reply, str):
            outcome.state, outcome.reason = "error", reply
            return outcome
        if reply.refused or REFUSAL.match(reply.text):
            outcome.state, outcome.reason = "refused", (reply.refused or reply.text.strip())[:200]
            return outcome
        if sampling.logprobs and reply.text and not reply.tokens:
            raise JudgeUnusable(
                f"judge {judge.judge.name} returns no token probabilities; "
                "turn them off (--set judging.logprobs=false) or choose another judge"
            )
        answer = parse_answer(reply.text, rubric, nonce)
        if isinstance(answer, Answer):
            outcome.state, outcome.answer, outcome.reason = "ok", answer, ""
            outcome.weighted = weighted_scores(reply, rubric)
            return outcome
        outcome.state, outcome.reason = "unparsable", answer.reason
        if attempt == 0:
            question = build_reask(question, reply, answer)
    return outcome


def build_question(
    rubric: Rubric, texts: Mapping[str, str], nonce: str, delimiter: str, sampling: Sampling
) -> Question:
    """The first request about `texts`, which are neutralised here."""
    safe_texts = {name: neutralise(text).strip() for name, text in texts.items()}
    keys = ", ".join(f'"{name}"' for name in (CHECK, *rubric.fields))
    task = rubric.task.format(delimiter=delimiter, nonce=nonce, keys=keys, **safe_texts)
    return Question(
        messages=(Message("system", rubric.system), Message("user", task)),
        schema=rubric.schema,
        max_tokens=rubric.max_answer_tokens,
        sampling=sampling,
        nonce=nonce,
    )


def build_reask(question: Question, reply: Reply, invalid: InvalidAnswer) -> Question:
    """The conversation so far, and a request for a complete answer that quotes what was wrong."""
    request = (
        f"That answer does not count: {invalid.reason}. Give the whole JSON object again, nothing else. "
        f'"{CHECK}" is the text {question.nonce}'
    )
    messages: Sequence[Message] = (
        *question.messages,
        Message("assistant", neutralise(reply.text)[:MAX_REASK_QUOTE_CHARACTERS] or "(nothing)"),
        Message("user", request),
    )
    return replace(question, messages=messages)
