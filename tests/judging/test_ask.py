"""Retries: a judge is never called before its Retry-After, and a failing text does not stop the others."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from loopback import Response, Script, answer, chat, serving, text_of

from smalltale.errors import SmalltaleError
from smalltale.judging.config import JudgingConfig
from smalltale.judging.endpoint import EndpointJudge
from smalltale.judging.folder import read_judgements
from smalltale.judging.rubric import load_rubric
from smalltale.judging.run import JudgingSummary, judge_submission
from smalltale.submission import Completion, write_submission


def judged(
    folder: Path, script: Script, texts: list[str], config: JudgingConfig, request_times: list[float]
) -> JudgingSummary:
    """Judge texts, 16 at once; appends the time of each request to `request_times`."""
    write_submission(folder / "s.jsonl", [Completion("Once", text) for text in texts], {})
    with serving(script) as server:
        judge = EndpointJudge(base_url=server.url, model="m", endpoint="loopback", concurrency=16)
        try:
            return judge_submission(
                folder / "s.jsonl", [judge], load_rubric("paper"), folder / "out", config=config
            )
        finally:
            request_times += server.request_times


def test_a_rate_limit_slows_a_run_without_failures(tmp_path: Path) -> None:
    served: deque[float] = deque(maxlen=5)

    def limited(request: dict[str, Any], before: int) -> Response:
        """At most 5 answers in any 0.2 s."""
        now = time.monotonic()
        if len(served) == 5 and now - served[0] < 0.2:
            return Response(b"{}", 429, {"retry-after": f"{served[0] + 0.2 - now:.3f}"})
        served.append(now)
        return Response(chat(answer(request)))

    config = JudgingConfig(attempts=1, first_wait_seconds=0)
    request_times: list[float] = []
    summary = judged(tmp_path, limited, [f"Story {n}." for n in range(60)], config, request_times)
    assert summary.states == {"ok": 60}
    assert summary.calls == len(request_times) > 60


def test_a_judge_with_a_too_long_retry_after_is_not_asked_again(tmp_path: Path) -> None:
    def closed(request: dict[str, Any], before: int) -> Response:
        return Response(b"{}", 429, {"retry-after": "3600"})

    config, request_times = JudgingConfig(longest_wait_seconds=5), list[float]()
    with pytest.raises(SmalltaleError, match=r"asks to wait 3600 s: past the 5 s"):
        judged(tmp_path, closed, [f"Story {n}." for n in range(100)], config, request_times)
    assert len(request_times) == 1


def test_a_judge_that_stays_busy_fails_in_time(tmp_path: Path) -> None:
    def busy(request: dict[str, Any], before: int) -> Response:
        return Response(b"{}", 429, {"retry-after": "0"})

    started, request_times = time.monotonic(), list[float]()
    with pytest.raises(SmalltaleError, match="no judgement of 2 has a score"):
        judged(tmp_path, busy, ["One.", "Two."], JudgingConfig(longest_wait_seconds=0.4), request_times)
    assert time.monotonic() - started < 5
    assert len(request_times) <= 2 * 0.4 / 0.05 + 4, "no busy loop"


@pytest.mark.parametrize("position", [0, 7], ids=["first", "in the middle"])
@pytest.mark.parametrize(
    ("body", "state"),
    [
        (b'{"error": {"message": "maximum context length is 512 tokens"}}', "error"),
        (b'{"error": {"message": "Invalid prompt: flagged as violating our usage policies"}}', "refused"),
    ],
    ids=["too long", "against its rules"],
)
def test_a_rejected_text_does_not_stop_the_others(
    tmp_path: Path, body: bytes, state: str, position: int
) -> None:
    def picky(request: dict[str, Any], before: int) -> Response:
        return Response(body, 400) if text_of(request).startswith("bad") else Response(chat(answer(request)))

    texts = [f"{'bad' if n == position else 'good'} {n}." for n in range(40)]
    request_times: list[float] = []
    summary = judged(tmp_path, picky, texts, JudgingConfig(), request_times)
    assert summary.states == {"ok": 39, state: 1}
    assert len(request_times) == 40, "a rejected request is not repeated"
    row = read_judgements(tmp_path / "out")[position]
    assert (row.state, row.overall) == (state, None)
    assert "HTTP 400" in row.reason


def test_a_judge_that_rejects_every_request_reports_its_reason(tmp_path: Path) -> None:
    def older(request: dict[str, Any], before: int) -> Response:
        return Response(b"response_format is not supported", 400)

    request_times: list[float] = []
    with pytest.raises(SmalltaleError, match="response_format is not supported"):
        judged(tmp_path, older, [f"Story {n}." for n in range(200)], JudgingConfig(), request_times)
    assert len(request_times) <= 24 + 16
