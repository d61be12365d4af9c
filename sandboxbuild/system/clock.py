"""The two clocks, so that what reads time can be given another one."""

from __future__ import annotations

import time


def wall_ns() -> int:
    """Nanoseconds since the epoch, for what users and images see."""
    return time.time_ns()


def steady_ns() -> int:
    """Nanoseconds that never go back, for durations and deadlines."""
    return time.monotonic_ns()
