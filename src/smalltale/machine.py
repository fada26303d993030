"""Number of CPU cores available to this process."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Number of CPU cores this process may run on: its affinity mask on Linux, all cores elsewhere."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
