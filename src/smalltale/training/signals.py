"""Delays Ctrl-C and pre-emption to the end of a training step, so that the saved state is complete.

Input: SIGINT or SIGTERM. Output: a flag that the training loop reads after each step.
Note: a second signal stops at once.
"""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequests:
    """Context in which the first signal only sets `requested`; outside the main thread signals keep their handlers."""

    def __init__(self) -> None:
        self.requested = False
        self.previous_handlers: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            self.previous_handlers = {number: signal.signal(number, self.handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous_handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def handle(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        log.info("stopping after this step; a second signal stops at once")
