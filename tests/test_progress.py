from __future__ import annotations

import io
import logging

from rich.console import Console

from smalltale.progress import ProgressHandler


def records(handler: ProgressHandler) -> logging.Logger:
    log = logging.Logger("smalltale.test", logging.INFO)
    log.addHandler(handler)
    return log


def test_a_pipe_gets_plain_lines() -> None:
    out = io.StringIO()
    handler = ProgressHandler(Console(file=out, force_terminal=False, width=60))
    log = records(handler)
    log.info("reading %s", "[a]")
    for done in range(1, 101):
        log.info("encoding", extra={"done": done, "total": 100, "unit": "stories"})
    log.info("training", extra={"done": 0.5, "total": 1.0, "unit": "", "figures": "step 3  loss 1.0"})
    handler.close()
    lines = out.getvalue().splitlines()
    assert lines[0] == "reading [a]"
    assert lines[-1] == "training:  50 %  step 3  loss 1.0"
    assert "encoding: 100 %  100/100 stories" in out.getvalue()
    assert len(lines) < 6
    assert "\x1b" not in out.getvalue()
    assert "\r" not in out.getvalue()


def test_a_terminal_gets_a_bar_for_each_stage() -> None:
    out = io.StringIO()
    handler = ProgressHandler(Console(file=out, force_terminal=True, width=100))
    log = records(handler)
    for stage in ("reading", "encoding"):
        log.info(stage, extra={"done": 10, "total": 10, "unit": "stories"})
    handler.close()
    assert "reading" in out.getvalue()
    assert "encoding" in out.getvalue()
    assert handler.task is None
