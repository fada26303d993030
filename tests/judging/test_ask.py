"""Patience with a judge: it is never called before the time it asked for, and no text of one contestant stops the others."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from loopback import Said, Script, answer, chat, serving, text_of

from smalltale.errors import SmalltaleError
from smalltale.judging.config import JudgingConfig
from smalltale.judging.endpoint import EndpointJudge
from smalltale.judging.folder import read_judgements
from smalltale.judging.rubric import load_rubric
from smalltale.judging.run import JudgingSummary, judge_submission
from smalltale.submission import Completion, write_submission


def judged(
    folder: Path, script: Script, texts: list[str], config: JudgingConfig, asked: list[float]
) -> JudgingSummary:
    """Judge texts, 16 at once; `asked` takes when each request came."""
    write_submission(folder / "s.jsonl", [Completion("Once", each) for each in texts], {})
    with serving(script) as server:
        judge = EndpointJudge(base_url=server.url, model="m", endpoint="loopback", concurrency=16)
        try:
            return judge_submission(
                folder / "s.jsonl", [judge], load_rubric("paper"), folder / "out", config=config
            )
        finally:
            asked += server.asked_at


def test_a_rate_limit_slows_a_run_down_and_fails_nothing(tmp_path: Path) -> None:
    served: deque[float] = deque(maxlen=5)

    def limited(request: dict[str, Any], before: int) -> Said:
        """At most 5 answers in any 0.2 s."""
        now = time.monotonic()
        if len(served) == 5 and now - served[0] < 0.2:
            return Said(b"{}", 429, {"retry-after": f"{served[0] + 0.2 - now:.3f}"})
        served.append(now)
        return Said(chat(answer(request)))

    config = JudgingConfig(attempts=1, first_wait_seconds=0)
    asked: list[float] = []
    summary = judged(tmp_path, limited, [f"Story {n}." for n in range(60)], config, asked)
    assert summary.states == {"ok": 60}
    assert summary.calls == len(asked) > 60


def test_a_judge_that_asks_for_too_long_a_wait_is_not_asked_again(tmp_path: Path) -> None:
    def closed(request: dict[str, Any], before: int) -> Said:
        return Said(b"{}", 429, {"retry-after": "3600"})

    config, asked = JudgingConfig(longest_wait_seconds=5), list[float]()
    with pytest.raises(SmalltaleError, match=r"asks to wait 3600 s: past the 5 s"):
        judged(tmp_path, closed, [f"Story {n}." for n in range(100)], config, asked)
    assert len(asked) == 1


def test_a_judge_that_stays_busy_is_given_up_in_time(tmp_path: Path) -> None:
    def busy(request: dict[str, Any], before: int) -> Said:
        return Said(b"{}", 429, {"retry-after": "0"})

    began, asked = time.monotonic(), list[float]()
    with pytest.raises(SmalltaleError, match="no judgement of 2 has a score"):
        judged(tmp_path, busy, ["One.", "Two."], JudgingConfig(longest_wait_seconds=0.4), asked)
    assert time.monotonic() - began < 5
    assert len(asked) <= 2 * 0.4 / 0.05 + 4, "not asked in a tight circle"


@pytest.mark.parametrize("place", [0, 7], ids=["first", "in the middle"])
@pytest.mark.parametrize(
    ("said", "state"),
    [
        (b'{"error": {"message": "maximum context length is 512 tokens"}}', "error"),
        (b'{"error": {"message": "Invalid prompt: flagged as violating our usage policies"}}', "refused"),
    ],
    ids=["too long", "against its rules"],
)
def test_a_text_that_a_judge_does_not_take_stops_no_other(
    tmp_path: Path, said: bytes, state: str, place: int
) -> None:
    def picky(request: dict[str, Any], before: int) -> Said:
        return Said(said, 400) if text_of(request).startswith("bad") else Said(chat(answer(request)))

    texts = [f"{'bad' if n == place else 'good'} {n}." for n in range(40)]
    asked: list[float] = []
    summary = judged(tmp_path, picky, texts, JudgingConfig(), asked)
    assert summary.states == {"ok": 39, state: 1}
    assert len(asked) == 40, "a request that is not taken is not made again"
    row = read_judgements(tmp_path / "out")[place]
    assert (row.state, row.overall) == (state, None)
    assert "HTTP 400" in row.reason


def test_a_judge_that_takes_no_request_says_why(tmp_path: Path) -> None:
    def older(request: dict[str, Any], before: int) -> Said:
        return Said(b"response_format is not supported", 400)

    asked: list[float] = []
    with pytest.raises(SmalltaleError, match="response_format is not supported"):
        judged(tmp_path, older, [f"Story {n}." for n in range(200)], JudgingConfig(), asked)
    assert len(asked) <= 24 + 16
