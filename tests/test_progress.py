from __future__ import annotations

import io
import logging
import sys

import pytest
from rich.console import Console

from smalltale.progress import ProgressHandler, fit_width

FIGURES = ("loss 1.925", "0.753 bits/byte", "1,810,788 tokens/s", "MFU 42 %", "13.4 GiB", "step 12,740")


def logger_of(handler: ProgressHandler) -> logging.Logger:
    log = logging.Logger("smalltale.test", logging.INFO)
    log.addHandler(handler)
    return log


def terminal(width: int = 100) -> tuple[io.StringIO, ProgressHandler]:
    out = io.StringIO()
    return out, ProgressHandler(Console(file=out, force_terminal=True, width=width))


def pipe() -> tuple[io.StringIO, ProgressHandler]:
    out = io.StringIO()
    return out, ProgressHandler(Console(file=out, force_terminal=False, width=60))


def stage_names(handler: ProgressHandler) -> list[str]:
    return [task.description for task in handler.progress.tasks]


def drawn_lines(handler: ProgressHandler, width: int) -> list[str]:
    """The lines that the display shows now, without colours."""
    screen = Console(file=io.StringIO(), width=width, record=True)
    screen.print(*handler.progress.get_renderables(), sep="")
    return screen.export_text().splitlines()


def training_display(width: int) -> list[str]:
    _, handler = terminal(width)
    logger_of(handler).info("training", extra={"done": 0.25, "total": 1.0, "figures": FIGURES})
    lines = drawn_lines(handler, width)
    handler.close()
    return lines


def test_a_pipe_gets_plain_lines() -> None:
    out, handler = pipe()
    log = logger_of(handler)
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


def test_a_short_stage_inside_another_prints_no_line_in_a_pipe() -> None:
    out, handler = pipe()
    log = logger_of(handler)
    log.info("training", extra={"done": 0.5, "total": 1.0, "figures": ("loss 1.0",)})
    for done in (10, 20):
        log.info("evaluating", extra={"done": done, "total": 20, "unit": "stories"})
    log.info("training", extra={"done": 0.6, "total": 1.0, "figures": ("loss 0.9",)})
    assert out.getvalue() == "training:  50 %  loss 1.0\n"


def test_a_terminal_gets_a_bar_for_each_stage() -> None:
    out, handler = terminal()
    log = logger_of(handler)
    for stage in ("reading", "encoding"):
        log.info(stage, extra={"done": 5, "total": 10, "unit": "stories"})
        assert handler.progress.live.is_started
        handler.progress.refresh()
        log.info(stage, extra={"done": 10, "total": 10, "unit": "stories"})
        assert not handler.progress.live.is_started, "a finished display must not cover the results"
    assert "reading" in out.getvalue()
    assert "encoding" in out.getvalue()


def test_an_evaluation_is_shown_below_the_training_that_waits_for_it() -> None:
    _, handler = terminal()
    log = logger_of(handler)
    log.info("training", extra={"done": 0.5, "total": 1.0, "figures": ("loss 1.0",)})
    training = handler.progress.tasks[0]
    log.info("evaluating", extra={"done": 10, "total": 20, "unit": "stories"})
    assert stage_names(handler) == ["training", "evaluating"]
    log.info("evaluating", extra={"done": 20, "total": 20, "unit": "stories"})
    log.info("training", extra={"done": 0.6, "total": 1.0, "figures": ("loss 0.9",)})
    assert handler.progress.tasks == [training]
    log.info("training", extra={"done": 1.0, "total": 1.0, "figures": ("loss 0.8",)})
    assert stage_names(handler) == []


def test_at_most_two_unfinished_stages_are_shown() -> None:
    _, handler = terminal()
    log = logger_of(handler)
    for name in ("a", "b", "c", "d"):
        log.info(name, extra={"done": 1, "total": 2})
    assert stage_names(handler) == ["c", "d"]
    log.info("e", extra={"done": 1, "total": None, "unit": "MB"})
    log.info("f", extra={"done": 1, "total": 2})
    assert stage_names(handler) == ["d", "f"]
    handler.close()


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 120, 200])
def test_no_line_of_a_stage_is_wider_than_the_terminal(width: int) -> None:
    lines = training_display(width)
    assert len(lines) == 2
    assert all(len(line.rstrip()) <= width for line in lines)
    assert "25%" in lines[0]
    assert "loss 1.925" in lines[1]
    assert "…" not in "".join(lines), "a figure that does not fit is left out whole"


def test_eighty_columns_show_every_figure_of_a_run() -> None:
    bar, figures = training_display(80)
    assert "━" * 10 in bar
    assert figures.split("  ") == list(FIGURES)


def test_a_resumed_run_counts_only_its_own_work_for_the_remaining_time() -> None:
    _, handler = pipe()
    now = 0.0
    handler.progress.get_time = lambda: now
    log = logger_of(handler)
    for now, done in ((0.0, 0.70), (10.0, 0.75), (20.0, 0.80)):  # noqa: B007
        log.info("training", extra={"done": done, "total": 1.0, "figures": ("loss 1.0",)})
    assert handler.progress.tasks[0].time_remaining == pytest.approx(40, abs=1), "0.05 in 10 s, 0.2 remain"


def test_a_stage_of_unknown_length_has_a_count_and_no_bar() -> None:
    _, handler = terminal(80)
    logger_of(handler).info("encoding", extra={"done": 50, "total": None, "unit": "MB"})
    assert [line.rstrip() for line in drawn_lines(handler, 80)] == ["encoding  50 MB"]
    handler.close()


def test_results_in_a_pipe_are_not_drawn_into_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    _, handler = terminal()
    stdout = sys.stdout
    logger_of(handler).info("evaluating", extra={"done": 1, "total": 2})
    assert sys.stdout is stdout
    handler.close()


def test_one_figure_is_cut_only_where_it_alone_is_too_wide() -> None:
    assert fit_width(["loss 1.9", "step 3"], 10) == "loss 1.9"
    assert fit_width(["loss 1.9"], 4) == "loss"
