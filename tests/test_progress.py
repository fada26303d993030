from __future__ import annotations

import io
import logging
import sys

import pytest
from rich.console import Console

from smalltale.progress import ProgressHandler, Stage, clock

FIGURES = ("loss 1.925", "0.753 bits/byte", "1,810,788 tokens/s", "MFU 42 %", "13.4 GiB", "step 12,740")


def records(handler: ProgressHandler) -> logging.Logger:
    log = logging.Logger("smalltale.test", logging.INFO)
    log.addHandler(handler)
    return log


def terminal(width: int = 100) -> tuple[io.StringIO, ProgressHandler]:
    out = io.StringIO()
    return out, ProgressHandler(Console(file=out, force_terminal=True, width=width))


def pipe() -> tuple[io.StringIO, ProgressHandler]:
    out = io.StringIO()
    return out, ProgressHandler(Console(file=out, force_terminal=False, width=60))


def drawn(stage: Stage, width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(stage)
    return out.getvalue().splitlines()


def training(done: float = 0.25) -> Stage:
    stage = Stage(name="training", began=0.0, first=0.05, shown=0.0)
    stage.report(40.0, done, 1.0, "", FIGURES)
    return stage


def test_a_pipe_gets_plain_lines() -> None:
    out, handler = pipe()
    log = records(handler)
    log.info("reading %s", "[a]")
    for done in range(1, 101):
        log.info("encoding", extra={"done": done, "total": 100, "unit": "stories"})
    log.info("training", extra={"done": 0.5, "total": 1.0, "figures": ("step 3", "loss 1.0")})
    handler.close()
    lines = out.getvalue().splitlines()
    assert lines[0] == "reading [a]"
    assert lines[-1] == "training:  50 %  step 3  loss 1.0"
    assert "encoding: 100 %  100/100 stories" in out.getvalue()
    assert len(lines) < 6
    assert "\x1b" not in out.getvalue()
    assert "\r" not in out.getvalue()


def test_a_short_stage_inside_another_is_no_line_in_a_pipe() -> None:
    out, handler = pipe()
    log = records(handler)
    log.info("training", extra={"done": 0.5, "total": 1.0, "figures": ("loss 1.0",)})
    for done in (10, 20):
        log.info("evaluating", extra={"done": done, "total": 20, "unit": "stories"})
    log.info("training", extra={"done": 0.6, "total": 1.0, "figures": ("loss 0.9",)})
    assert out.getvalue() == "training:  50 %  loss 1.0\n"


def test_a_terminal_gets_a_bar_for_each_stage() -> None:
    out, handler = terminal()
    log = records(handler)
    for stage in ("reading", "encoding"):
        log.info(stage, extra={"done": 5, "total": 10, "unit": "stories"})
        assert handler.live is not None
        handler.live.refresh()
        log.info(stage, extra={"done": 10, "total": 10, "unit": "stories"})
    handler.close()
    assert "reading" in out.getvalue()
    assert "encoding" in out.getvalue()
    assert handler.live is None


def test_an_evaluation_stands_below_the_training_that_waits_for_it() -> None:
    _, handler = terminal()
    log = records(handler)
    log.info("training", extra={"done": 0.5, "total": 1.0, "figures": ("loss 1.0",)})
    first = handler.stages[0]
    log.info("evaluating", extra={"done": 10, "total": 20, "unit": "stories"})
    assert [each.name for each in handler.stages] == ["training", "evaluating"]
    log.info("evaluating", extra={"done": 20, "total": 20, "unit": "stories"})
    log.info("training", extra={"done": 0.6, "total": 1.0, "figures": ("loss 0.9",)})
    assert handler.stages == [first]
    log.info("training", extra={"done": 1.0, "total": 1.0, "figures": ("loss 0.8",)})
    assert handler.live is None, "a finished display stands in the way of results"


def test_stages_left_unfinished_do_not_heap_up() -> None:
    _, handler = terminal()
    log = records(handler)
    for name in ("a", "b", "c", "d"):
        log.info(name, extra={"done": 1, "total": 2})
    assert [each.name for each in handler.stages] == ["c", "d"]
    log.info("e", extra={"done": 1, "total": None, "unit": "MB"})
    log.info("f", extra={"done": 1, "total": 2})
    assert [each.name for each in handler.stages] == ["d", "f"]
    handler.close()


@pytest.mark.parametrize("width", [24, 40, 60, 80, 100, 120, 200])
def test_no_line_of_a_stage_is_wider_than_the_terminal(width: int) -> None:
    lines = drawn(training(), width)
    assert len(lines) == (1 if width > 130 else 2)
    assert all(len(line.rstrip()) <= width for line in lines)
    assert "loss 1.925" in lines[-1]
    assert "25 %" in lines[0]
    assert "…" not in "".join(lines)


def test_eighty_columns_hold_every_figure_of_a_run() -> None:
    lines = drawn(training(), 80)
    assert "━" * 13 in lines[0]
    assert "2:30 left" in lines[0], "40 s for a fifth of it, and three quarters are left"
    for figure in FIGURES[:-1]:
        assert figure in lines[1], figure


def test_a_stage_of_unknown_length_has_a_count_and_no_bar() -> None:
    stage = Stage(name="encoding", began=0.0, first=0.0, shown=0.0)
    stage.report(10.0, 50.0, None, "MB", ())
    assert [line.rstrip() for line in drawn(stage, 80)] == ["encoding  50 MB  5/s"]


def test_results_in_a_pipe_are_not_drawn_into_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    _, handler = terminal()
    before = sys.stdout
    records(handler).info("evaluating", extra={"done": 1, "total": 2})
    assert sys.stdout is before
    handler.close()


def test_clock_reads_as_a_clock() -> None:
    assert [clock(each) for each in (0, 65, 7265)] == ["0:00", "1:05", "2:01:05"]
