"""Ctrl-C and pre-emption wait for the end of a step, so that what is saved is whole.

In: SIGINT or SIGTERM. Out: a flag that the loop looks at after each step.
Beware: a second signal does not wait.
"""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType, TracebackType

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequests:
    """While entered, the first signal sets `asked`; outside the main thread signals are left alone."""

    def __init__(self) -> None:
        self.asked = False
        self.former: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            self.former = {each: signal.signal(each, self.take) for each in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each, handler in self.former.items():
            signal.signal(each, handler)  # type: ignore[arg-type]

    def take(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        log.info("stopping after this step; once more stops at once")
