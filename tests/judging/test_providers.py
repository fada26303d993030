"""inspect_ai's model calls behind the Judge protocol: one attempt per call, the same states as for other judges."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from loopback import Response, answer, chat, serving
from test_run import FAST, KINDS, faulty

from smalltale.errors import SmalltaleError
from smalltale.judging.ask import build_question
from smalltale.judging.folder import read_judgements
from smalltale.judging.judge import (
    AttemptFailed,
    Judge,
    JudgeUnusable,
    Question,
    RateLimited,
    Reply,
    Sampling,
)
from smalltale.judging.providers import ProviderJudge
from smalltale.judging.registry import judge_identity, open_judges
from smalltale.judging.rubric import load_rubric
from smalltale.judging.run import judge_submission
from smalltale.submission import Completion, write_submission

pytest.importorskip("inspect_ai", reason="the extra judge is not installed")

pytestmark = pytest.mark.filterwarnings("ignore:The 'initial' parameter is deprecated:DeprecationWarning")


async def answer_once(judge: Judge) -> Reply:
    """One answer, then the connections closed."""
    try:
        return await judge.answer(question())
    finally:
        await judge.close()


def question() -> Question:
    texts = {"prompt": "Once", "completion": "good: a."}
    return build_question(load_rubric("paper"), texts, "123456", "=== a ===", Sampling())


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (Response(b'{"error": {"message": "slow down"}}', 429, {"retry-after": "7"}), RateLimited),
        (Response(b'{"error": {"message": "oh no"}}', 500), AttemptFailed),
        (Response(b'{"error": {"message": "who are you"}}', 401), JudgeUnusable),
        (None, None),
    ],
    ids=["429", "500", "401", "right"],
)
def test_a_call_makes_one_request(
    monkeypatch: pytest.MonkeyPatch, response: Response | None, expected: type[Exception] | None
) -> None:
    def script(request: dict[str, Any], before: int) -> Response:
        return response or Response(chat(answer(request)))

    with serving(script) as server:
        monkeypatch.setenv("LOOPBACK_API_KEY", "key")
        monkeypatch.setenv("LOOPBACK_BASE_URL", server.url)
        with open_judges(["openai-api/loopback/m"]) as (judge,):
            if expected is None:
                reply = asyncio.run(answer_once(judge))
                assert '"plot": 5' in reply.text
                assert (reply.input_tokens, reply.output_tokens) == (400, 60)
            else:
                with pytest.raises(expected) as caught:
                    asyncio.run(answer_once(judge))
                if isinstance(caught.value, RateLimited):
                    assert caught.value.retry_after_seconds == 7.0
    assert len(server.requests) == 1


def test_a_provider_without_logprobs_is_refused_before_any_call() -> None:
    with_logprobs = replace(question(), sampling=Sampling(logprobs=True))
    judge = ProviderJudge(name="anthropic/m", endpoint="", concurrency=1, model=None)
    with pytest.raises(JudgeUnusable, match="returns no token probabilities"):
        judge.config(with_logprobs)


def test_a_closed_provider_opens_again_for_the_next_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda request, before: Response(chat(answer(request)))) as server:
        monkeypatch.setenv("LOOPBACK_API_KEY", "key")
        monkeypatch.setenv("LOOPBACK_BASE_URL", server.url)
        with open_judges(["openai-api/loopback/m"]) as (judge,):
            for _ in range(2):
                assert '"plot": 5' in asyncio.run(answer_once(judge)).text
    assert len(server.requests) == 2


def test_bounds_that_the_sent_schema_loses_are_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving(lambda request, before: Response(chat(answer(request, plot=11)))) as server:
        monkeypatch.setenv("LOOPBACK_API_KEY", "key")
        monkeypatch.setenv("LOOPBACK_BASE_URL", server.url)
        write_submission(tmp_path / "s.csv", [Completion("Once", "good: a.")], {})
        with (
            open_judges(["openai-api/loopback/m"]) as judges,
            pytest.raises(SmalltaleError, match="no judgement"),
        ):
            judge_submission(tmp_path / "s.csv", judges, load_rubric("paper"), tmp_path / "out")
    (row,) = read_judgements(tmp_path / "out")
    assert (row.state, row.calls) == ("unparsable", 2)
    sent = server.requests[0]["response_format"]["json_schema"]["schema"]["properties"]["plot"]
    assert "maximum" not in sent, "inspect_ai drops it, so the answer is checked here"
    assert (
        '"plot" must be a whole number from 1 to 10, and was 11'
        in server.requests[1]["messages"][-1]["content"]
    )


def test_every_fault_ends_in_the_same_state_as_behind_an_endpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving(faulty) as server:
        monkeypatch.setenv("LOOPBACK_API_KEY", "key")
        monkeypatch.setenv("LOOPBACK_BASE_URL", server.url)
        write_submission(
            tmp_path / "s.jsonl", [Completion("Once", f"{kind}: the end.") for kind in KINDS], {}
        )
        with open_judges(["openai-api/loopback/m"]) as (judge,):
            judge.timeout_seconds = 2.5  # type: ignore[attr-defined]
            summary = judge_submission(
                tmp_path / "s.jsonl", [judge], load_rubric("paper"), tmp_path / "out", config=FAST
            )
    rows = read_judgements(tmp_path / "out")
    outcomes = {kind: (row.state, row.calls) for kind, row in zip(KINDS, rows, strict=True)}
    assert outcomes == KINDS
    assert summary.calls == len(server.requests) == sum(row.calls for row in rows)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["openai/gpt-x"], "OPENAI_API_KEY"),
        (["nowhere/m"], "not recognized"),
        (["http://127.0.0.1:1/v1"], "names no model"),
        (["whatever"], "unknown judge"),
        (["scripted", "scripted"], "named twice"),
        (["http://127.0.0.1:1/v1#m", "http://127.0.0.1:2/v1#m"], "have one name"),
        (["http://me:secret@127.0.0.1:1/v1#m"], "contains a secret"),
        ([], "no judge is named"),
    ],
)
def test_a_wrong_name_is_refused_before_any_call(
    monkeypatch: pytest.MonkeyPatch, names: list[str], message: str
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(SmalltaleError, match=message), open_judges(names):
        pass


def test_a_judge_is_known_by_its_name_and_its_endpoint_before_it_is_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOOPBACK_API_KEY", "key")
    monkeypatch.setenv("LOOPBACK_BASE_URL", "http://me:secret@127.0.0.1:1/v1")
    names = ["openai-api/loopback/m", "http://127.0.0.1:1/v1/#n", "scripted"]
    with open_judges(names) as judges:
        identities = [(judge.name, judge.endpoint) for judge in judges]
    assert identities == [judge_identity(name) for name in names]
    assert identities == [
        ("openai-api/loopback/m", "inspect:openai-api:http://127.0.0.1:1/v1"),
        ("n", "http://127.0.0.1:1/v1"),
        ("scripted", "scripted:"),
    ]
    assert judge_identity("local:models/some.gguf") == ("local/some", "local:some.gguf")
