"""Ask one judge about one text: patience with the line, one re-ask for the answer, a state at the end.

In: a judge, a rubric, texts. Out: an Outcome whose state is ok, unparsable, refused or error.
Beware: this is the only layer that tries again; judges make one attempt each.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

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
)  # fmt: skip
from smalltale.judging.judgement import Answer, InvalidAnswer, State, parse_answer
from smalltale.judging.logprob_scores import weighted_scores
from smalltale.judging.prompt_injection import derive_delimiter, derive_nonce, neutralise
from smalltale.judging.rubric import CHECK, Rubric

log = logging.getLogger(__name__)

REFUSAL = re.compile(
    r"\A[^\w{]*(?:i['’]?m sorry|i am sorry|sorry|i apologi[sz]e|i can(?:['’]|no)?t|i['’]?m (?:not able|unable)|i am (?:not able|unable)|"
    r"i (?:won['’]?t|will not|must decline)|as an ai)\b",
    re.IGNORECASE,
)
MIN_WAIT_SECONDS = 0.05
"""Seconds, where a judge asks to wait for none."""
MAX_REASK_QUOTE_CHARACTERS = 600
"""Characters of the failed answer that a re-ask shows the judge again."""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How long a judge is waited for."""

    attempts: int = 5
    """Failed calls for one answer; one that the judge turned away for now, and said when to come again, is none."""
    first_wait_seconds: float = 1.0
    """Wait after the first failure; it doubles with each."""
    longest_wait_seconds: float = 600.0
    """So long is one answer waited for while its judge asks to wait. Never called before the time it asked for."""


@dataclass
class RateLimitedJudge:
    """One judge, as a run talks to it: it counts the calls and keeps everyone waiting where the judge asks for it."""

    judge: Judge
    retry_policy: RetryPolicy = field(default_factory=RetryPolicy)
    resume_at: float = 0.0
    busy_reason: str = ""
    """What the judge said when it last asked to wait."""

    async def request_with_retries(self, question: Question, counter: AskOutcome) -> Reply | str:
        """A reply, or why there is none after all attempts. Raises Rejected where no attempt can bring one."""
        failed, reason, until = 0, "", time.monotonic() + self.retry_policy.longest_wait_seconds
        while failed < self.retry_policy.attempts:
            while (wait := self.resume_at - time.monotonic()) > 0:
                if self.resume_at > until:
                    return f"{reason or self.busy_reason}: past the {self.retry_policy.longest_wait_seconds:g} s that one answer is waited for"
                await asyncio.sleep(wait)
            counter.calls += 1
            try:
                reply = await self.judge.answer(question)
            except RateLimited as error:
                asked, failed = error.retry_after_seconds, failed + (error.retry_after_seconds is None)
                wait = self.backoff_seconds(failed) if asked is None else max(asked, MIN_WAIT_SECONDS)
                reason = self.busy_reason = f"busy ({error}), asks to wait {round(wait, 2):g} s"
                self.resume_at = max(self.resume_at, time.monotonic() + wait)
            except AttemptFailed as error:
                failed, reason = failed + 1, str(error)
                if failed < self.retry_policy.attempts:
                    await asyncio.sleep(self.backoff_seconds(failed))
            else:
                counter.input_tokens += reply.input_tokens
                counter.output_tokens += reply.output_tokens
                return reply
        return f"{reason} ({self.retry_policy.attempts} attempts)"

    def backoff_seconds(self, failed: int) -> float:
        """After so many failures: doubling each time."""
        return min(
            self.retry_policy.first_wait_seconds * 2.0 ** (failed - 1), self.retry_policy.longest_wait_seconds
        )


@dataclass
class AskOutcome:
    """What came of asking."""

    state: State = "error"
    answer: Answer | None = None
    weighted: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


async def ask(
    line: RateLimitedJudge,
    rubric: Rubric,
    texts: Mapping[str, str],
    *,
    sampling: Sampling,
    salt: str,
    key: str,
) -> AskOutcome:
    """Ask about `texts` (the rubric's places for them: prompt and completion, or prompt, first and second).

    Raises JudgeUnusable where the judge lacks what `sampling` wants.
    """
    nonce = derive_nonce(salt, key)
    question = build_question(rubric, texts, nonce, derive_delimiter(salt, key), sampling)
    outcome = AskOutcome()
    for turn in range(2):
        try:
            reply = await line.request_with_retries(question, outcome)
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
                f"judge {line.judge.name} gives no probabilities of its marks; "
                "ask it without them (--set judging.logprobs=false) or choose another"
            )
        answer = parse_answer(reply.text, rubric, nonce)
        if isinstance(answer, Answer):
            outcome.state, outcome.answer, outcome.reason = "ok", answer, ""
            outcome.weighted = weighted_scores(reply, rubric)
            return outcome
        outcome.state, outcome.reason = "unparsable", answer.reason
        if turn == 0:
            question = build_reask(question, reply, answer)
    return outcome


def build_question(
    rubric: Rubric, texts: Mapping[str, str], nonce: str, delimiter: str, sampling: Sampling
) -> Question:
    """The first request about some texts, neutralised."""
    places = {name: neutralise(text).strip() for name, text in texts.items()}
    task = rubric.task.format(delimiter=delimiter, nonce=nonce, keys=format_answer_keys(rubric), **places)
    return Question(
        messages=(Message("system", rubric.system), Message("user", task)),
        schema=rubric.schema,
        max_tokens=rubric.max_answer_tokens,
        sampling=sampling,
        nonce=nonce,
    )


def format_answer_keys(rubric: Rubric) -> str:
    """The keys as the task lists them."""
    return ", ".join(f'"{name}"' for name in (CHECK, *rubric.fields))


def build_reask(question: Question, reply: Reply, problem: InvalidAnswer) -> Question:
    """The one re-ask, quoting what was missing."""
    again = (
        f"That answer does not count: {problem.reason}. Give the whole JSON object again, nothing else. "
        f'"{CHECK}" is the text {question.nonce}'
    )
    messages: Sequence[Message] = (
        *question.messages,
        Message("assistant", neutralise(reply.text)[:MAX_REASK_QUOTE_CHARACTERS] or "(nothing)"),
        Message("user", again),
    )
    return replace(question, messages=messages)
